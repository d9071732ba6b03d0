"""The file by which workers on other machines see that their output directory is that of the process that sent them.

Two machines may have different folders of one name. The file is locked as long as its process lives, so that there is
one such process at a time, and so that a file which a killed one has left is known.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from hlfeat.errors import OutputError
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import AnotherRunError

PATIENCE = (
    65.0  # seconds: an NFS client that has looked before may believe for 60 that there is no such file (acdirmax)
)


class DriverToken:
    """Makes the directory and puts a random token into it; as a context, it takes the token away.

    Raises:
        OutputError: the directory cannot be made or written.
        AnotherRunError: the token of another process is there, which lives.
    """

    def __init__(self, folder: Path) -> None:
        self.token = uuid4().hex
        self._path = Layout(folder.absolute()).driver
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _lock(self._path)
        except OSError as e:
            is_file = isinstance(e, FileExistsError | NotADirectoryError)
            reason = "expected a folder, found a file" if is_file else e.strerror
            if e.errno == errno.ELOOP:
                raise OutputError(f"{self._path}: expected a regular file, found a link: remove it") from e
            raise OutputError(f"{folder}: cannot be used as output: {reason}") from e
        if file is None:
            raise AnotherRunError(f"{folder}: another run has workers here already")
        self._file = file
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, self.token.encode(), 0)
            os.fsync(file)  # a network file system shows it to others
        except OSError as e:
            self.__exit__()
            raise OutputError(f"{self._path}: cannot be written: {e.strerror}") from e

    def __enter__(self) -> DriverToken:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a folder that is gone
            self._path.unlink()
        os.close(self._file)


def sees_token(folder: Path, token: str, patience: float = PATIENCE) -> bool:
    """Whether the folder, as this machine sees it, has the token, at once or after at most `patience` seconds."""
    path, end = Layout(folder).driver, time.monotonic() + patience
    while True:
        with suppress(OSError):
            if path.read_text(encoding="ascii", errors="replace") == token:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def remove_abandoned_token(folder: Path) -> None:
    """Remove the file if the process that made it was killed. It stays where there are no locks to say so."""
    path = Layout(folder).driver
    with suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _has_name(file, path):  # else it would be the file of a process that has begun meanwhile
                path.unlink()
        finally:
            os.close(file)


def _lock(path: Path) -> int | None:
    """Make and lock the file. Returns its descriptor, or None where another process holds the lock."""
    for _ in range(100):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter on CIFS
            os.close(file)
            return None
        except OSError:  # the file system has no locks, so that whoever is last has the token
            return file
        if _has_name(file, path):
            return file
        os.close(file)  # the process that had it has just removed it
    return None


def _has_name(file: int, path: Path) -> bool:
    """Whether the open file is still the one of this name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file))
    return False
