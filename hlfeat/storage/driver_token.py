"""The file by which workers on other machines see that their output directory is that of the process that sent them.

Two machines may have different folders of one name. The file is locked as long as its process lives, so that there is
one such process at a time, and so that a file which a killed one has left is known.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from hlfeat.errors import OutputError
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import AnotherRunError


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
            raise OutputError(f"{folder}: cannot be used as output: {reason}") from e
        if file is None:
            raise AnotherRunError(f"{folder}: another run has workers here already")
        self._file = file
        os.ftruncate(file, 0)
        os.pwrite(file, self.token.encode(), 0)
        os.fsync(file)  # a network file system shows it to others

    def __enter__(self) -> DriverToken:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a folder that is gone
            self._path.unlink()
        os.close(self._file)


def sees_token(folder: Path, token: str, patience: float = 10.0) -> bool:
    """Whether the folder, as this machine sees it, has the token; a network may take some seconds to show it."""
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
        file = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)


def _lock(path: Path) -> int | None:
    """Make and lock the file. Returns its descriptor, or None where another process holds the lock."""
    for _ in range(100):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter on CIFS
            os.close(file)
            return None
        except OSError:  # the file system has no locks, so that whoever is last has the token
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                return file
        os.close(file)  # the process that had it has just removed it
    return None
