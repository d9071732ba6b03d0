"""Text files of others: in UTF-8 or, as PowerShell and Excel write them, UTF-16. Names in them may be any bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hlfeat.errors import UsageError
from hlfeat.remote.urls import name_of
from hlfeat.text import escape_unprintable

_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # byte order marks


@contextmanager
def open_text(path: str, newline: str | None = None, content: bytes | None = None) -> Iterator[io.TextIOWrapper]:
    """A manifest to read, decompressed if its name ends with `.gz`. Bytes that are not UTF-8 are kept as surrogates.

    Args:
        content: of one at a URL.

    Raises:
        UsageError: it cannot be opened, or (while the context lasts) read.
    """
    try:
        with _open(path, content) as data:
            encoding = _encoding_of(data.peek(2)[:2])
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            with io.TextIOWrapper(data, encoding, errors, newline) as text:
                yield text
    except (OSError, EOFError, zlib.error, UnicodeError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"{escape_unprintable(path)}: the manifest cannot be read: {reason}") from e


def _open(path: str, content: bytes | None) -> Any:
    """A binary file that can be peeked into."""
    zipped = name_of(path).lower().endswith(".gz")
    if content is None:
        return gzip.open(path) if zipped else open(path, "rb")
    data = io.BytesIO(content)
    return gzip.GzipFile(fileobj=data) if zipped else io.BufferedReader(data)


def in_utf8(data: bytes) -> bytes:
    """A text without its byte order mark, in UTF-8 if the mark is that of UTF-16."""
    if data[:2] in _MARKS:
        return data.decode(_MARKS[data[:2]], "replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def _encoding_of(start: bytes) -> str:
    """Of a text that begins with these two bytes. ASCII in UTF-16 without a mark has a NUL there."""
    if start in _MARKS:
        return _MARKS[start]
    if len(start) == 2 and 0 in start:
        return "utf-16-le" if start[1] == 0 else "utf-16-be"
    return "utf-8-sig"
