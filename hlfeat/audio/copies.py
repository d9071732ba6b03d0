"""Bytes of a clip that were brought here from elsewhere: in a file without a name, for this process and its workers."""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from contextlib import suppress

Stamp = tuple[int, int | None]  # size in bytes and modification time in nanoseconds since 1970 (None: not known)

MAX_MEMORY = 64 << 20  # bytes that are held in memory; more go into a file on the disk


class Copy:
    """A clip's bytes. The process that makes it holds them until the object is gone; others may open its path.

    Args:
        data: the bytes: those of a member alone, if the clip is one of an archive.
        stamp: of the original file or archive; None: as many bytes as there are here, changed at a time unknown.
        folder: for what is too large for memory; None: the system's for temporary files.

    Attributes:
        path: to open them; not a name that stays.
        stamp: as given.
        size: of the data, in bytes.

    >>> copy = Copy(b"RIFF")
    >>> open(copy.path, "rb").read(), copy.stamp
    (b'RIFF', (4, None))
    """

    def __init__(self, data: bytes | memoryview, stamp: Stamp | None = None, folder: str | None = None) -> None:
        self.size = len(data)
        self.stamp = (self.size, None) if stamp is None else stamp
        descriptor, self.path, remove = _unnamed_file(self.size, folder)
        self._finalizer = weakref.finalize(self, _give_up, descriptor, remove)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def close(self) -> None:
        """Give the bytes up now."""
        self._finalizer()

    def __reduce__(self) -> tuple[type[Borrowed], tuple[str, Stamp]]:
        return Borrowed, (self.path, self.stamp)


class Borrowed:
    """A copy, in a process that does not hold it."""

    def __init__(self, path: str, stamp: Stamp) -> None:
        self.path, self.stamp = path, stamp


def _unnamed_file(size: int, folder: str | None) -> tuple[int, str, str | None]:
    """A descriptor, a path to open the same file, and the path to remove in the end, if it has a name after all."""
    if sys.platform == "linux":
        descriptor = -1
        if size <= MAX_MEMORY:
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
