"""The lock of an output directory: one run at a time, or one for each part."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from hlfeat.errors import OutputError
from hlfeat.partition import WHOLE
from hlfeat.storage.heartbeat import STALE, HeartbeatLock, HeldError, LockFile, current_lock
from hlfeat.storage.layout import Layout, own_files

log = logging.getLogger("hlfeat")

# What flock answers where there are no locks: NFS without lockd, Lustre without -o flock, some of FUSE.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})


class AnotherRunError(OutputError):
    """Another run is at work in the directory, or was killed a moment ago."""


class DirectoryLock:
    """Makes a directory and locks it.

    A run locks a file of its own, `hlfeat.lock`, or its part's. It then looks at the files of those that it excludes:
    a whole run and a part exclude each other, and each has its own lock before it looks, so at most one of them goes
    on. The file is a regular one that is open for writing: NFS takes no other to the server. The directory is locked
    too. Most network file systems keep that lock on one machine, but it is there even if somebody removes the files.

    Locks of the system belong to the process: a killed run leaves at most a file that nobody holds. Where the file
    system has none, the file has a heartbeat.

    Raises:
        OutputError: the directory cannot be made or written.
        AnotherRunError: another run is at work in it.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._file: _FileLock | HeartbeatLock | None = None
        folder = layout.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            is_file = isinstance(e, FileExistsError | NotADirectoryError)
            reason = "expected a folder, found a file" if is_file else e.strerror
            raise OutputError(f"{folder}: cannot be used as output: {reason}") from e
        try:
            self._lock()
        except HeldError as e:
            self.release()
            doing = "" if layout.part == WHOLE else f" part {layout.part}"
            raise AnotherRunError(f"{folder}: another run is writing{doing} here{e}") from e
        except OSError as e:
            self.release()
            raise OutputError(f"{folder}: cannot be used as output: {e.strerror}") from e
        except OutputError:
            self.release()
            raise

    def _lock(self) -> None:
        whole = self.layout.part == WHOLE
        try:
            _flock(self._folder, fcntl.LOCK_EX if whole else fcntl.LOCK_SH)
        except OSError as e:
            if e.errno not in _NO_LOCKS | {errno.EBADF}:  # that of a file that is not open for writing
                raise
        _check_regular(self.layout.folder)
        missing = _why_no_locks(self.layout.folder)
        if missing is None:
            self._file = _FileLock(self.layout)
        else:
            self._file = HeartbeatLock(self.layout)
            log.warning(
                "%s: the file system has no locks (%s): %s with a heartbeat takes their place; it holds for %d minutes "
                "after a machine has died",
                self.layout.folder,
                missing.strerror,
                self.layout.lock.name,
                STALE // 60,
            )
        self._check_others(has_locks=missing is None)
        if not self._file.is_held():  # a run that has given up meanwhile took the file for one that nobody holds
            raise HeldError

    def _check_others(self, has_locks: bool) -> None:
        """Raise HeldError if a run is at work that this one excludes. Remove lock files that nobody holds."""
        for path, name in list(own_files(self.layout.folder)):
            if name.kind != "lock":
                continue
            excluded = name.part != self.layout.part and WHOLE in (name.part, self.layout.part)
            if excluded:
                _check_free(Layout(self.layout.folder, name.part), has_locks)
            if excluded or (name.part == self.layout.part and name.temporary):
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Give up the lock."""
        if self._file is not None:
            self._file.release()
        _unlock(self._folder)

    def check_place(self) -> None:
        """Raises OutputError if the folder was moved away or removed since it was locked, or the lock was lost.

        Another run takes over a lock with a heartbeat when this process was suspended for minutes, and one whose file
        was removed.
        """
        try:
            same = os.path.samestat(os.stat(self.layout.folder), os.fstat(self._folder))
        except OSError:
            same = False
        if not same:
            raise OutputError(f"{self.layout.folder}: was removed or moved away while the run was writing to it")
        try:
            held = self._file is None or self._file.is_held()
        except OSError as e:
            raise OutputError(f"{self.layout.lock}: cannot be read: {e.strerror}") from e
        if not held:
            raise OutputError(
                f"{self.layout.lock}: was removed, or taken over by another run, while this one was at work; run the "
                "same again when no other run is at work"
            )


class _FileLock:
    """A lock of the system on the file of a run or of one of its parts; `release` removes the file."""

    def __init__(self, layout: Layout) -> None:
        self.path = layout.lock
        for _ in range(100):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                _flock(self._file, fcntl.LOCK_EX)
                # a machine where this file system has no locks may hold it
                _check_no_heartbeat(LockFile.read_open(self.path, self._file))
                if self.is_held():
                    os.ftruncate(self._file, 0)
                    return
            except BaseException as e:
                if isinstance(e, OSError) and e.errno == errno.ESTALE:  # of NFS: it was removed
                    os.close(self._file)
                    continue
                _unlock(self._file)
                raise
            _unlock(self._file)  # the run that had the lock has just removed the file
        raise HeldError

    def is_held(self) -> bool:
        """Whether the file has its name still. If it was removed, another run locks a new one.

        The file is opened, as NFS asks the server then; what `stat` says may be seconds old.
        """
        try:
            file = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            return os.path.samestat(os.fstat(file), os.fstat(self._file))
        finally:
            os.close(file)

    def release(self) -> None:
        with suppress(OSError):
            if self.is_held():  # else it would be the file of another run
                self.path.unlink()
        _unlock(self._file)


def _flock(file: int, how: int) -> None:
    """Raises HeldError where another run holds the lock."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as e:  # the latter on CIFS
        raise HeldError from e


def _unlock(file: int) -> None:
    """Close a file that may be locked. Closing alone would leave the lock to processes that were forked meanwhile."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def _check_regular(folder: Path) -> None:
    """Raises OutputError where what is called as a lock is anything but a file: a link would have its target emptied,
    and a pipe would be waited for."""
    for path, name in own_files(folder):
        if name.kind == "lock":
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise OutputError(f"{path}: expected a regular file, as it is the lock of a run: remove it")


def _why_no_locks(folder: Path) -> OSError | None:
    """The error of the system where files in a folder cannot be locked."""
    with TemporaryFile(dir=folder) as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno in _NO_LOCKS:
                return e
            raise
    return None


def _check_free(layout: Layout, has_locks: bool) -> None:
    """Raises HeldError where a run holds the lock of another part or of the whole."""
    if not has_locks:
        if (file := current_lock(layout)) is not None:
            file.check_free()
        return
    with suppress(FileNotFoundError):
        descriptor = os.open(layout.lock, os.O_RDWR)
        try:
            _flock(descriptor, fcntl.LOCK_EX)
        finally:
            _unlock(descriptor)
    _check_no_heartbeat(current_lock(layout))


def _check_no_heartbeat(file: LockFile | None) -> None:
    """Raises HeldError where the file has a heartbeat. Without one it may be empty: the lock of the system decides."""
    if file is not None and file.holder is not None:
        file.check_free()
