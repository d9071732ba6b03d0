"""The headers of an archive at a URL, which are read by parts and not with what is between them."""

from __future__ import annotations

from hlfeat.audio.seekable import SeekableFile
from hlfeat.inputs.tar_members import MAX_HEADER
from hlfeat.remote.objects import read
from hlfeat.remote.retries import Retries

_LEAST, _MOST = 1 << 14, 1 << 20  # bytes that are asked for at once


class RemoteHeaders(SeekableFile):
    """As HeaderFile, for an archive at a URL. It holds one block, in which there may be the next headers too.

    Blocks are larger where members are small, and smaller where nothing else in a block was of use.

    Args:
        url: of the archive.
        size: in bytes.
        retries: of each request.

    Its `read` raises RemoteError.
    """

    def __init__(self, url: str, size: int, retries: Retries) -> None:
        super().__init__(size)
        self._url, self._retries = url, retries
        self._first = 0  # byte of the file, with which its block begins
        self._block, self._at_once = b"", 1 << 16

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        end = min(self.position + size, self.size)
        if end <= self.position:
            return b""
        if not self._first <= self.position <= end <= self._first + len(self._block):
            self._fetch(end)
        data = self._block[self.position - self._first : end - self._first]
        self.position = end
        return data

    def _fetch(self, end: int) -> None:
        """Have a block that begins at the position and reaches to `end` at least."""
        useful = 0 <= self.position - self._first <= len(self._block)
        self._at_once = min(_MOST, self._at_once * 2) if useful else max(_LEAST, self._at_once // 4)
        stop = min(self.size, max(end, self.position + self._at_once))
        self._block, self._first = read(self._url, self.position, stop, self._retries), self.position
