"""The lock of an output directory: one run at a time, or one for each part."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from hlfeat.errors import OutputError
from hlfeat.partition import WHOLE
from hlfeat.storage.layout import Layout


class DirectoryLock:
    """Makes a directory and locks it.

    The lock is on the directory itself and belongs to the process: a killed run leaves none behind. Runs of different
    parts share it, and each part has another lock on a file, which is removed when the run ends.

    Raises:
        OutputError: the directory cannot be made or written, or another run is at work in it.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._part_lock: int | None = None
        folder, part = layout.folder, layout.part
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder_lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            is_file = isinstance(e, FileExistsError | NotADirectoryError)
            reason = "expected a folder, found a file" if is_file else e.strerror
            raise OutputError(f"{folder}: cannot be used as output: {reason}") from e
        try:
            if part == WHOLE:
                fcntl.flock(self._folder_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.flock(self._folder_lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self._lock_part()
        except BlockingIOError as e:
            self._close_files()
            doing = "" if part == WHOLE else f" part {part}"
            raise OutputError(f"{folder}: another run is writing{doing} here") from e
        except OSError as e:
            self._close_files()
            raise OutputError(f"{folder}: cannot be used as output: {e.strerror}") from e

    def _lock_part(self) -> None:
        self._part_lock = os.open(self.layout.lock, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._part_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(self._part_lock).st_nlink == 0:  # the run that had the lock has just removed the file
            raise BlockingIOError

    def _close_files(self) -> None:
        if self._part_lock is not None:
            os.close(self._part_lock)
        os.close(self._folder_lock)

    def release(self) -> None:
        """Give up the lock."""
        if self._part_lock is not None:
            with suppress(OSError):
                self.layout.lock.unlink()
        self._close_files()

    def check_place(self) -> None:
        """Raises OutputError if the folder has been moved away or removed since it was locked."""
        try:
            same = os.path.samestat(os.stat(self.layout.folder), os.fstat(self._folder_lock))
        except OSError:
            same = False
        if not same:
            raise OutputError(f"{self.layout.folder}: was removed or moved away while the run was writing to it")
