"""The lines of an index, read at their offsets: from its file, or from what was kept of one that was at a URL."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

from hlfeat.errors import OutputError

_PIECE = 1 << 14  # bytes that are read at once: some lines


class IndexLines(Protocol):
    """The lines of one index; as text, its name for people."""

    def at(self, offsets: Iterable[int]) -> Iterator[bytes]:
        """The lines that begin at these offsets, in bytes. Raises OutputError where they cannot be read."""


class LinesOfFile:
    """Those of a file, which is opened anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def at(self, offsets: Iterable[int]) -> Iterator[bytes]:
        try:
            with open(self._path, "rb") as f:
                for offset in offsets:
                    f.seek(offset)
                    yield f.readline()
        except OSError as e:
            raise OutputError(f"{self._path}: cannot be read: {e.strerror}") from e


class UnnamedFile:
    """Bytes on the disk that no other process removes. Forked processes read the same file; when it is pickled, its
    contents are.
    """

    def __init__(self) -> None:
        self._file = TemporaryFile(prefix="hlfeat-")

    def append(self, data: bytes) -> int:
        """Where the data begin."""
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()
        return start

    def read(self, start: int, size: int) -> bytes:
        """As many bytes, or what is there of them. The position of the file stays: other processes share it."""
        return os.pread(self._file.fileno(), size, start)

    def __getstate__(self) -> bytes:
        return zlib.compress(self.read(0, os.fstat(self._file.fileno()).st_size), 1)

    def __setstate__(self, state: bytes) -> None:
        self.__init__()  # type: ignore[misc]
        self.append(zlib.decompress(state))


class KeptLines:
    """Those of an index that was at a URL, in a file that has others too.

    Args:
        name: of the index, for people.
        file: has it.
        start: where it begins in the file.
    """

    def __init__(self, name: str, file: UnnamedFile, start: int) -> None:
        self._name, self._file, self._start = name, file, start

    def __str__(self) -> str:
        return self._name

    def at(self, offsets: Iterable[int]) -> Iterator[bytes]:
        place, piece = 0, b""  # some lines, and where they begin in the file
        for offset in offsets:
            start = self._start + offset
            end = piece.find(b"\n", start - place) if start >= place else -1
            if end < 0:
                place, piece = start, b""
                while b"\n" not in piece and (data := self._file.read(start + len(piece), _PIECE)):
                    piece += data
                end = piece.find(b"\n")
            yield piece[start - place : end]
