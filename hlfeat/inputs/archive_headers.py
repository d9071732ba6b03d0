"""The headers of an archive at a URL, which are read by parts and not with what is between them."""

from __future__ import annotations

import io
import os

from hlfeat.inputs.tar_members import MAX_HEADER
from hlfeat.remote.objects import read
from hlfeat.remote.retries import Retries

_LEAST, _MOST = 1 << 14, 1 << 20  # bytes that are asked for at once


class RemoteHeaders(io.RawIOBase):
    """As HeaderFile, for an archive at a URL. It holds one block, in which there may be the next headers too.

    Blocks are larger where members are small, and smaller where nothing else in a block was of use.

    Args:
        url: of the archive.
        size: in bytes.
        retries: of each request.

    Its `read` raises RemoteError.
    """

    def __init__(self, url: str, size: int, retries: Retries) -> None:
        self._url, self._size, self._retries = url, size, retries
        self._position = self._first = 0  # of the file, and that its block begins with
        self._block, self._at_once = b"", 1 << 16

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        end = min(self._position + size, self._size)
        if end <= self._position:
            return b""
        if not self._first <= self._position <= end <= self._first + len(self._block):
            self._fetch(end)
        data = self._block[self._position - self._first : end - self._first]
        self._position = end
        return data

    def _fetch(self, end: int) -> None:
        """Have a block that begins at the position and reaches to `end` at least."""
        useful = 0 <= self._position - self._first <= len(self._block)
        self._at_once = min(_MOST, self._at_once * 2) if useful else max(_LEAST, self._at_once // 4)
        stop = min(self._size, max(end, self._position + self._at_once))
        self._block, self._first = read(self._url, self._position, stop, self._retries), self._position
