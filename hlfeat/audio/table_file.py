"""A Parquet file: its columns of audio, and what is wrong with one that cannot be read."""

from __future__ import annotations

import os
from typing import Any

from hlfeat.errors import ClipError, UsageError

_READ_BYTES, _REQUEST_BYTES = 1 << 20, 8 << 20  # of a file, and of an object at a URL, that are read at once

TABLE_CHANGED = "the table was changed after its rows were listed"
NEEDS_PYARROW = "Parquet needs pyarrow: pip install 'hlfeat[parquet]'"


def open_table(source: Any) -> Any:
    """A Parquet file, of which nothing but the schema has been read: `pyarrow.parquet.ParquetFile`.

    Its column chunks are read in pieces, and not mapped: the process would die where a mapped file is cut short.

    Args:
        source: a path, or an open file, each of whose reads is a request to a server.

    Raises:
        UsageError: pyarrow is not installed.
        OSError, ValueError: as pyarrow raises them for a file that cannot be read, or is no such file.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as e:
        raise UsageError(NEEDS_PYARROW) from e
    size = _READ_BYTES if isinstance(source, str) else _REQUEST_BYTES
    return pq.ParquetFile(source, buffer_size=size, pre_buffer=False, page_checksum_verification=True)


def leaf_of(table: Any, group: int, name: str) -> Any:
    """What the file's metadata says of a column chunk, such as `audio.bytes`; None if there is none of that name."""
    facts = table.metadata.row_group(group)
    columns = (facts.column(i) for i in range(facts.num_columns))
    return next((column for column in columns if column.path_in_schema == name), None)


def audio_leaves(table: Any, column: str) -> list[str]:
    """The columns that a column of audio consists of in the file: that of the bytes, and maybe that of the path."""
    import pyarrow as pa

    kind = table.schema_arrow.field(column).type
    if not pa.types.is_struct(kind):
        return [column]
    return [f"{column}.{name}" for name in ("bytes", "path") if kind.get_field_index(name) >= 0]


def reason_of(error: Exception) -> str:
    """What pyarrow says of an error, on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__


def text_of(scalar: Any) -> str | None:
    """A text of Arrow, of which bytes that are no UTF-8 are kept as surrogates, as in names of files."""
    try:
        text: str | None = scalar.as_py()
    except UnicodeDecodeError:
        while hasattr(scalar, "value"):  # of a dictionary
            scalar = scalar.value
        return os.fsdecode(scalar.as_buffer().to_pybytes())
    return text


def code_of(e: Exception) -> str:
    """The code of a clip that fails because its table cannot be read."""
    if isinstance(e, ClipError):
        return e.code
    return "unreadable" if isinstance(e, OSError) and e.errno is not None else "corrupt"


def as_clip_error(e: Exception) -> ClipError:
    """The error of a clip whose table cannot be read."""
    if isinstance(e, ClipError):
        return e
    if isinstance(e, MemoryError):
        return ClipError("out-of-memory", "the row group is too large to be held in memory")
    return ClipError(code_of(e), f"the table cannot be read: {reason_of(e)}")
