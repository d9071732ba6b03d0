"""Rows of Parquet tables that hold audio: the bytes of clips, in one pass over each row group.

A row can only be reached by decoding those before it in its row group. So clips are read in the order of their rows, a
few megabytes at a time. Parquet's smallest unit is a page, which pyarrow holds whole, and twice where it is compressed:
a row group of up to 1024 rows may be a single page.
"""

from __future__ import annotations

import os
import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from hlfeat.audio.clip import Clip, TableRow
from hlfeat.audio.copies import Borrowed, Copy, Stamp
from hlfeat.errors import ClipError, UsageError
from hlfeat.text import escape_unprintable

BATCH_BYTES = 4 << 20  # of audio that is decoded at once, about
_BATCH_ROWS = 64
_OPEN = 3  # tables at once: clips that are fetched ahead may be of the next one
_READ_BYTES, _REQUEST_BYTES = 1 << 20, 8 << 20  # of a file, and of an object at a URL, that are read at once

TABLE_CHANGED = "the table was changed after its rows were listed"
NEEDS_PYARROW = "Parquet needs pyarrow: pip install 'hlfeat[parquet]'"

_Value = bytes | memoryview | str | ClipError  # a text is the path of a file


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


class TableFetcher:
    """Brings the audio of rows of tables; a Fetcher (hlfeat/extraction/fetch_ahead.py).

    Args:
        open_remote: opens the table of a clip at a URL, and says what its size and modification time are; None for a
            clip on this machine. Raises ClipError.
        read_remote: the bytes of a file that a row names instead of having them, by the name and the table's path or
            URL; None for a file on this machine. Raises ClipError.

    Attributes:
        stopped: whether it is to end soon; what is read from servers looks at it.
    """

    def __init__(
        self,
        open_remote: Callable[[Clip], tuple[Any, Stamp] | None] = lambda clip: None,
        read_remote: Callable[[str, str], bytes | None] = lambda name, table: None,
    ) -> None:
        self._open_remote, self._read_remote, self.stopped = open_remote, read_remote, False
        self._lock = threading.Lock()  # of the tables
        self._tables: OrderedDict[tuple[str, str], _TablePass] = OrderedDict()
        self._wanted_lock = threading.Lock()
        self._wanted: dict[tuple[str, str], list[int]] = {}  # rows that threads wait for

    def brings(self, clip: Clip) -> bool:
        return clip.row is not None

    def fetch(self, clip: Clip) -> Copy | Borrowed:
        assert clip.row is not None
        key, number = (clip.source, clip.row.column), clip.row.number
        with self._wanted_lock:
            self._wanted.setdefault(key, []).append(number)
        try:
            with self._lock:
                table = self._table(clip)
                _check_stamp(table.stamp or _stamp_of(clip.path), clip.row)
                with self._wanted_lock:
                    wanted = sorted(self._wanted[key])
                value = table.take(number, wanted)
        finally:
            with self._wanted_lock:
                self._wanted[key].remove(number)
                if not self._wanted[key]:
                    del self._wanted[key]
        if isinstance(value, str):
            return Borrowed(value, clip.row.stamp)
        return Copy(value, clip.row.stamp)

    def near(self, clip: Clip) -> Clip:
        """The clip with the audio of a row of the same row group that is reached at once, to look at its header."""
        row = clip.row
        assert row is not None
        with self._lock:
            number = self._table(clip).near(row.number)
        other = replace(clip, row=replace(row, number=number))
        return replace(other, copy=self.fetch(other))

    def _table(self, clip: Clip) -> _TablePass:
        assert clip.row is not None
        key = clip.source, clip.row.column
        if key not in self._tables:
            while len(self._tables) >= _OPEN:
                self._tables.popitem(last=False)[1].close()
            try:
                source, stamp = self._open_remote(clip) or (clip.path, None)
                _check_stamp(stamp or _stamp_of(clip.path), clip.row)
                self._tables[key] = _TablePass(
                    clip.path, clip.row.column, source, stamp, lambda name: self._read_remote(name, clip.source)
                )
            except UsageError:
                raise
            except Exception as e:  # pyarrow raises errors of many types
                raise _as_clip_error(e) from e
        self._tables.move_to_end(key)
        return self._tables[key]

    def stop(self) -> None:
        """Have what is read from servers end soon."""
        self.stopped = True

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
        self._tables.clear()


def read_row(clip: Clip) -> Clip:
    """The clip with its audio, read alone. Raises ClipError, or UsageError without pyarrow."""
    with closing(TableFetcher()) as tables:
        return replace(clip, copy=tables.fetch(clip))


class _TablePass:
    """The rows of one column of audio, read forwards.

    Args:
        path: of the table.
        column: of audio: bytes, or Hugging Face's struct of bytes and path.
        source: the path, or an open file.
        stamp: size and modification time, if it is at a URL.
        read_remote: the bytes of a file that a row names; None for one on this machine. Raises ClipError.
    """

    def __init__(
        self, path: str, column: str, source: Any, stamp: Stamp | None, read_remote: Callable[[str], bytes | None]
    ) -> None:
        self._path, self._column, self.stamp, self._read_remote = path, column, stamp, read_remote
        self._file = open_table(source)
        try:
            self._leaves = audio_leaves(self._file, column)
            facts = self._file.metadata
            self._starts = [0]  # first rows of row groups, and the number of all
            for group in range(facts.num_row_groups):
                self._starts.append(self._starts[-1] + facts.row_group(group).num_rows)
        except BaseException:
            self._file.close()
            raise
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None  # rows of the column from `_first` on
        self._first = 0
        self._kept: dict[int, _Value] = {}  # rows that were passed, and are wanted
        self._damaged: dict[int, tuple[int, ClipError]] = {}  # by row group: from which row on, and how

    def close(self) -> None:
        self._batches, self._batch = iter(()), None
        self._kept.clear()
        self._file.close()

    def take(self, number: int, wanted: Sequence[int]) -> bytes | memoryview | str:
        """The audio of a row, or the path of the file that it names. Raises ClipError.

        Args:
            wanted: rows, in order, this one too, that will be taken soon: those that are passed are kept for it.
        """
        for passed in wanted:
            if self._first <= passed < number and passed not in self._kept:
                value = self._read(passed)
                self._kept[passed] = bytes(value) if isinstance(value, memoryview) else value
        value = self._kept.pop(number) if number in self._kept else self._read(number)
        if isinstance(value, ClipError):
            raise ClipError(value.code, str(value))
        return value

    def near(self, number: int) -> int:
        """A row of the first batch of the row group that a row is in."""
        group = self._group_of(number)
        start = self._starts[group]
        return start + (number - start) % self._batch_rows(group)

    def _group_of(self, number: int) -> int:
        if not 0 <= number < self._starts[-1]:
            raise ClipError("unreadable", f"expected a row below {self._starts[-1]}, got {number}")
        return bisect_right(self._starts, number) - 1

    def _batch_rows(self, group: int) -> int:
        leaf = leaf_of(self._file, group, self._leaves[0])
        mean = leaf.total_uncompressed_size // max(1, leaf.num_values)
        return int(max(1, min(_BATCH_ROWS, BATCH_BYTES // max(1, mean))))

    def _read(self, number: int) -> _Value:
        group = self._group_of(number)
        if group in self._damaged and number >= self._damaged[group][0]:
            return self._damaged[group][1]
        if group != self._group or number < self._first:
            self._begin(group)
        while self._batch is None or number >= self._first + len(self._batch):
            error = self._next_batch()
            if error is not None:
                if error.code == "unreachable":
                    self._group = -1  # the next row begins anew
                else:
                    self._damaged[group] = self._first, error
                return error
        return self._value(number)

    def _begin(self, group: int) -> None:
        self._batch = None
        self._group, self._first = group, self._starts[group]
        self._batches = self._file.iter_batches(
            self._batch_rows(group), row_groups=[group], columns=self._leaves, use_threads=False
        )

    def _next_batch(self) -> ClipError | None:
        """Go on to the next rows, or say why that is not possible."""
        self._first += 0 if self._batch is None else len(self._batch)
        self._batch = None  # before the next one is there
        try:
            self._batch = next(self._batches).column(0)
        except StopIteration:
            return ClipError("corrupt", f"the row group ends before row {self._first}")
        except Exception as e:
            self._batches = iter(())
            return _as_clip_error(e)
        return None

    def _value(self, number: int) -> _Value:
        i = number - self._first
        audio, path = self._batch, None
        if self._leaves[0] != self._column:
            path = text_of(audio.field("path")[i]) if len(self._leaves) > 1 and audio[i].is_valid else None
            audio = audio.field("bytes") if audio[i].is_valid else None
        if audio is not None and audio[i].is_valid:
            return memoryview(audio[i].as_buffer())
        if path:
            try:
                data = self._read_remote(path)
            except ClipError as e:
                return e
            return _file_at(path, self._path) if data is None else data
        return ClipError("bad-row", f"{escape_unprintable(self._path)}:{number}: expected audio, got null")


def _file_at(name: str, table: str) -> str | ClipError:
    """The file that a row names instead of having its bytes: as it is written, or beside the table.

    It is not read here: it may be as long as it likes, and a pipe would never end.
    """
    try:
        path = name if os.path.exists(name) else os.path.join(os.path.dirname(table), name)
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return ClipError("missing", f"{escape_unprintable(name)}: no such file")
    except OSError as e:
        return ClipError("unreadable", f"{escape_unprintable(name)}: {e.strerror or e}")
    if not stat.S_ISREG(info.st_mode):
        code, kind = ("unreadable", "folder") if stat.S_ISDIR(info.st_mode) else ("not-audio", "device or a pipe")
        return ClipError(code, f"{escape_unprintable(name)}: expected a file, found a {kind}")
    return path


def text_of(scalar: Any) -> str | None:
    """A text of Arrow, of which bytes that are no UTF-8 are kept as surrogates, as in names of files."""
    try:
        text: str | None = scalar.as_py()
    except UnicodeDecodeError:
        while hasattr(scalar, "value"):  # of a dictionary
            scalar = scalar.value
        return os.fsdecode(scalar.as_buffer().to_pybytes())
    return text


def _stamp_of(path: str) -> Stamp:
    try:
        info = os.stat(path)
    except OSError as e:
        code = "missing" if isinstance(e, FileNotFoundError | NotADirectoryError) else "unreadable"
        raise ClipError(code, e.strerror or str(e)) from e
    return info.st_size, info.st_mtime_ns


def _check_stamp(stamp: Stamp, row: TableRow) -> None:
    """Raises ClipError where the table is not what it was when its rows were listed."""
    if stamp != row.stamp:
        raise ClipError("unreadable", TABLE_CHANGED)


def code_of(e: Exception) -> str:
    """The code of a clip that fails because its table cannot be read."""
    if isinstance(e, ClipError):
        return e.code
    return "unreadable" if isinstance(e, OSError) and e.errno is not None else "corrupt"


def _as_clip_error(e: Exception) -> ClipError:
    if isinstance(e, ClipError):
        return e
    if isinstance(e, MemoryError):
        return ClipError("out-of-memory", "the row group is too large to be held in memory")
    return ClipError(code_of(e), f"the table cannot be read: {reason_of(e)}")
