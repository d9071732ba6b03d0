"""A local folder that stands for a prefix of a bucket while a run is at work.

It has a file for each object. Small ones are copied when somebody is to read them. Those with features have the size of
their object, and take no room on the disk: nobody reads them here, and what is to be published is in them only until
it is uploaded.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from hlfeat.errors import OutputError
from hlfeat.files import disk_errors_of
from hlfeat.remote.s3_writes import Listed, S3Prefix
from hlfeat.storage.layout import FileName, Layout

_NAME = "hlfeat-bucket-"  # how the names of these folders begin
_AT_ONCE = 16  # requests
_NEW = 60.0  # seconds in which a folder of another run may not be locked yet


class Staging:
    """The folder, in that of the system for temporary files; it is removed with `remove`, or with the process.

    Raises OutputError where there is no room for it.

    Attributes:
        folder: its path.
        tags: of the objects that are known, by name.
    """

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self._copied: dict[str, str] = {}  # tags of what is here as a copy
        top = Path(tempfile.gettempdir())
        _remove_left(top)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=_NAME, dir=top))
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            raise OutputError(f"{top}: cannot be used for temporary files: {e.strerror}; TMPDIR names another") from e
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.remove = weakref.finalize(self, _remove, self.folder, lock, os.getpid())

    def update(self, objects: Mapping[str, Listed]) -> None:
        """Note what there is; names that no run gives are left out."""
        listed = {name: entry for name, entry in objects.items() if _name_of(name) is not None}
        for name in self.tags.keys() - listed.keys():
            self.forget(name)
        for name, entry in listed.items():
            if self.tags.get(name) != entry.tag:
                self.hold_place(name, entry.tag, entry.size if _is_data(name) else 0)

    def hold_place(self, name: str, tag: str, size: int) -> None:
        """Note an object, of which nothing is here but its name and size."""
        self.tags[name] = tag
        self._copied.pop(name, None)
        with disk_errors_of(self.folder), open(self.folder / name, "wb") as f:
            f.truncate(size)

    def keep(self, name: str, tag: str, data: bytes) -> None:
        """Note an object, and have a copy."""
        self.tags[name] = self._copied[name] = tag
        with disk_errors_of(self.folder):
            (self.folder / name).write_bytes(data)

    def has(self, name: str, data: bytes) -> bool:
        """Whether the object has these bytes, as far as is known here."""
        return self._copied.get(name) is not None and (self.folder / name).read_bytes() == data

    def forget(self, name: str) -> None:
        """Note that an object is not there."""
        self.tags.pop(name, None)
        self._copied.pop(name, None)
        (self.folder / name).unlink(missing_ok=True)

    def copy(self, prefix: S3Prefix, wanted: Callable[[FileName], bool]) -> None:
        """Copy the objects that are wanted and not here yet; of those with features, nothing is. Raises RemoteError."""
        names = [name for name, tag in self.tags.items() if self._copied.get(name) != tag and not _is_data(name)]
        names = [name for name in names if (parsed := _name_of(name)) is not None and wanted(parsed)]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="copy") as threads:
            for name, stored in zip(names, threads.map(prefix.get, names), strict=True):
                if stored is None:
                    self.forget(name)
                else:
                    self.keep(name, stored.tag, stored.data)


def _name_of(name: str) -> FileName | None:
    parsed = Layout.parse(name) if "/" not in name else None
    return None if parsed is None or parsed.kind in ("lock", "driver") else parsed


def _is_data(name: str) -> bool:
    parsed = Layout.parse(name)
    return parsed is not None and parsed.kind == "shard"


def _remove(folder: Path, lock: int, process: int) -> None:
    if os.getpid() == process:  # a fork's copy is not its to remove
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            os.close(lock)


def _remove_left(top: Path) -> None:
    """Remove the folders of runs that were killed: nobody holds the locks on these any more."""
    for folder in top.glob(f"{_NAME}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _NEW:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
