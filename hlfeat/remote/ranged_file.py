"""An object as a file to seek in: only what is read is asked for."""

from __future__ import annotations

from collections.abc import Callable

from hlfeat.audio.seekable import SeekableFile


class RangedFile(SeekableFile):
    """A file whose every `read` is a request, and raises what that raises.

    Args:
        size: in bytes.
        fetch: the bytes from one position to another, which is not included.

    >>> file = RangedFile(4, lambda start, end: b"RIFF"[start:end])
    >>> file.seek(2), file.read(), file.read()
    (2, b'FF', b'')
    """

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        super().__init__(size)
        self._fetch = fetch

    def read(self, size: int | None = -1, /) -> bytes:
        end = self.size if size is None or size < 0 else min(self.position + size, self.size)
        if end <= self.position:
            return b""
        data = self._fetch(self.position, end)
        self.position += len(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
