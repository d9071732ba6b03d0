"""Bytes of a clip that were brought here from elsewhere: in a file without a name, for this process and its workers."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hlfeat.errors import OutputError

Stamp = tuple[int, int | None]  # size in bytes and modification time in nanoseconds since 1970 (None: not known)

MAX_MEMORY = 64 << 20  # bytes that are held in memory; more go into a file on the disk
_PIECE = 1 << 20


class Copy:
    """A clip's bytes. The process that makes it holds them until the object is gone; others may open its path.

    Args:
        data: the bytes: those of a member alone, if the clip is one of an archive.
        stamp: of the original file or archive; None: as many bytes as there are here, changed at a time unknown.
        folder: for what is too large for memory; None: the system's for temporary files.

    Raises OutputError where the disk is full.

    Attributes:
        path: to open them; not a name that stays.
        stamp: as given.
        size: of the data, in bytes.

    >>> copy = Copy(b"RIFF")
    >>> open(copy.path, "rb").read(), copy.stamp
    (b'RIFF', (4, None))
    """

    def __init__(self, data: bytes | memoryview, stamp: Stamp | None = None, folder: str | None = None) -> None:
        file = _UnnamedFile(len(data) <= MAX_MEMORY, folder)
        file.write(data)
        self._hold(file, len(data), stamp)

    def _hold(self, file: _UnnamedFile, size: int, stamp: Stamp | None) -> None:
        self._file, self.path, self.size = file, file.path, size
        self.stamp = (size, None) if stamp is None else stamp

    def close(self) -> None:
        """Give the bytes up now."""
        self._file.close()

    def __reduce__(self) -> tuple[type[Borrowed], tuple[str, Stamp]]:
        return Borrowed, (self.path, self.stamp)


class CopyWriter:
    """Makes a copy of bytes that come in pieces: in memory, until they are too many for it.

    Args:
        folder: for what is too large for memory; None: the system's for temporary files.

    Attributes:
        size: of what was written, in bytes.

    >>> writer = CopyWriter()
    >>> writer.write(b"RI"), writer.write(b"FF")
    (None, None)
    >>> open(writer.copy().path, "rb").read()
    b'RIFF'
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder, self._file, self._in_memory = folder, _UnnamedFile(True, folder), True
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Raises OutputError where the disk is full."""
        if self._in_memory and self.size + len(data) > MAX_MEMORY:
            memory, self._file, self._in_memory = self._file, _UnnamedFile(False, self._folder), False
            at = 0
            while piece := os.pread(memory.descriptor, _PIECE, at):
                self._file.write(piece)
                at += len(piece)
            memory.close()
        self._file.write(data)
        self.size += len(data)

    def restart(self) -> None:
        """Forget what was written."""
        os.ftruncate(self._file.descriptor, 0)
        os.lseek(self._file.descriptor, 0, os.SEEK_SET)
        self.size = 0

    def copy(self, stamp: Stamp | None = None) -> Copy:
        """What was written. Nothing more may be."""
        copy = Copy.__new__(Copy)
        copy._hold(self._file, self.size, stamp)
        return copy


class Borrowed:
    """A copy, in a process that does not hold it; or a file of this machine that takes the place of one.

    Attributes:
        size: of what is held here: 0 bytes.
    """

    size = 0

    def __init__(self, path: str, stamp: Stamp) -> None:
        self.path, self.stamp = path, stamp


class _UnnamedFile:
    """A file that is gone with this object.

    Args:
        in_memory: whether it is to be held in memory, where the system can do so.
        folder: for one that is not.

    Attributes:
        descriptor: open to read and write, at its end.
        path: to open the same file.
    """

    def __init__(self, in_memory: bool, folder: str | None) -> None:
        self._folder = folder
        with _naming(folder):
            self.descriptor, self.path, remove = _create(in_memory, folder)
        self.close = weakref.finalize(self, _give_up, self.descriptor, remove)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with _naming(self._folder):
            while view:
                view = view[os.write(self.descriptor, view) :]


@contextmanager
def _naming(folder: str | None) -> Iterator[None]:
    """Says which disk is full: it need not be that of the output."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(
            f"{folder or tempfile.gettempdir()}: no space left on the disk for clips from elsewhere: "
            "free some space, or choose another folder (TMPDIR), and run the same command again"
        ) from e


def _create(in_memory: bool, folder: str | None) -> tuple[int, str, str | None]:
    """A descriptor, a path to open the same file, and the path to remove in the end, if it has a name after all."""
    if sys.platform == "linux":
        descriptor = -1
        if in_memory:
            with suppress(OSError):
                descriptor = os.memfd_create("clip")
        if descriptor < 0:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                descriptor = os.dup(file.fileno())
        os.set_inheritable(descriptor, False)
        return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}", None
    descriptor, path = tempfile.mkstemp(dir=folder)  # opening /dev/fd would share its position
    return descriptor, path, path


def _give_up(descriptor: int, path: str | None) -> None:
    os.close(descriptor)
    if path is not None:
        with suppress(OSError):
            os.unlink(path)
