"""What a file of known size needs to be sought in, wherever its bytes are."""

from __future__ import annotations

import io
import os


class SeekableFile(io.RawIOBase):
    """A file that is open for reading, at its beginning; how it is read is for those who derive from it.

    Args:
        size: in bytes.

    Attributes:
        size: as given.
        position: of the next byte that is read.
    """

    def __init__(self, size: int) -> None:
        self.size, self.position = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position
