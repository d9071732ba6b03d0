"""Publishes pitch tracks: a CSV for each clip, and one index for many of them.

Each text is written beside its name, as `ID.f0.csv.tmp`. Its line is in a draft of the index before, so that every file
is listed from the moment that it is there. To publish, all are synced and renamed; at last the draft gets its name. A
kill on the way leaves the draft, and the next run removes the files it lists.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from hlfeat.errors import ClipError
from hlfeat.files import TEMPORARY, publish, sync, sync_folder
from hlfeat.storage.index_entry import IndexEntry, index_bytes
from hlfeat.storage.layout import Layout, ShardFiles, track_name
from hlfeat.storage.track_files import remove_tracks, temporary_of

_AT_ONCE = 32  # files that are synced together: disks take many requests in the time of one

# What file systems answer to a name that they refuse (vfat: `a?.wav`); all else is a fault of the disk.
_REFUSED = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EPERM,
    }
)


class TrackShard:
    """The tracks of many clips, from the first one to `commit`; leaving the context without it leaves no trace.

    Args:
        files: of the shard, of which only the index is written.

    Attributes:
        entries: the index so far.
    """

    def __init__(self, files: ShardFiles) -> None:
        self.files = files
        self.entries: list[IndexEntry] = []
        self._starts: list[int] = []  # of each clip's line in the draft
        self._made: list[Path] = []  # folders, in order
        self._names = _TrackNames(files.layout)
        self._draft: IO[bytes] = open(files.draft_index, "wb")
        self._published = False

    def append(self, entry: IndexEntry, chunks: Iterable[tuple[bytes, int]]) -> None:
        """Add a clip: its text, and the frames of each chunk. An exception of `chunks` leaves the shard as it was.

        Raises ClipError where no file can have the clip's name, or another clip's file has it.
        """
        name = self._names.check(entry.id)
        temporary = temporary_of(self.files.layout.folder / name)
        start, frames, checksum = self._draft.tell(), 0, 0
        self._write_line(start, entry.placed(name, 0, 0, 0))
        try:
            with self._create(temporary) as file:
                for text, n in chunks:
                    file.write(text)
                    checksum = zlib.crc32(text, checksum)
                    frames += n
            placed = entry.placed(name, 0, frames, checksum)
            self._write_line(start, placed)
        except BaseException:
            self._cut(start)
            self._remove_empty_folders()
            raise
        self.entries.append(placed)
        self._starts.append(start)

    def drop(self, clips: int) -> None:
        """Take back the last so many clips."""
        for _ in range(clips):
            self._temporary(self.entries.pop()).unlink(missing_ok=True)
            self._cut(self._starts.pop())
        self._remove_empty_folders()

    def _temporary(self, entry: IndexEntry) -> Path:
        return temporary_of(self.files.layout.folder / entry.shard)

    def _write_line(self, start: int, entry: IndexEntry) -> None:
        """Write the last line of the draft, or write it again: it is no shorter then, and begins the same."""
        self._draft.seek(start)
        self._draft.write(index_bytes([entry]))
        self._draft.flush()

    def _cut(self, start: int) -> None:
        with suppress(OSError):  # a full disk
            self._draft.seek(start)
            self._draft.truncate()

    @contextmanager
    def _create(self, temporary: Path) -> Iterator[IO[bytes]]:
        """A new file for a clip's text; an exception removes it.

        Whether the file system takes the name, and for another one than those before, shows itself here only: some
        do not tell `A` from `a`, or `é` from `e` with an accent, or `a.` from `a`.
        """
        try:
            self._make_folders(temporary)
            if self._is_of_this_shard(temporary):
                raise ClipError("exists", f"{temporary}: the folder does not tell this name from another clip's")
            with suppress(FileNotFoundError):
                temporary.unlink()  # of a run before a power failure, whose draft is lost
            file = open(temporary, "xb")
        except OSError as e:
            if e.errno not in _REFUSED:
                raise
            raise ClipError("bad-id", f"no file for its track: {e.strerror}") from e
        try:
            with file:
                yield file
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _make_folders(self, file: Path) -> None:
        """Make the folders of a file, but not the directory of the run: it may have been moved away."""
        folders = [folder for folder in file.relative_to(self.files.layout.folder).parents if folder.parts]
        for folder in reversed(folders):
            path = self.files.layout.folder / folder
            if not path.is_dir():
                path.mkdir()
                self._made.append(path)

    def _remove_empty_folders(self) -> None:
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()

    def _is_of_this_shard(self, temporary: Path) -> bool:
        try:
            there = os.lstat(temporary)
        except FileNotFoundError:
            return False
        return any(os.path.samestat(there, os.lstat(self._temporary(entry))) for entry in self.entries)

    def commit(self) -> list[Path]:
        """Publish the tracks, then the index. Returns the paths of the tracks."""
        layout = self.files.layout
        paths = [layout.track(entry.id) for entry in self.entries]
        try:
            sync(self._draft)
            self._draft.close()
            sync_folder(layout.folder)
            self._sync(paths)
            for path in paths:
                temporary_of(path).replace(path)
            for folder in _folders_of(layout.folder, paths):
                sync_folder(folder)
            publish(self.files.draft_index, self.files.index)
        except BaseException:
            self._remove()
            raise
        self._published = True
        return paths

    def _sync(self, paths: Sequence[Path]) -> None:
        """Sync all texts, many at once."""
        with ThreadPoolExecutor(8, thread_name_prefix="sync") as threads:
            for first in range(0, len(paths), _AT_ONCE):
                with ExitStack() as opened:
                    some = paths[first : first + _AT_ONCE]
                    files = [opened.enter_context(open(temporary_of(path), "rb+")) for path in some]
                    for _ in threads.map(sync, files):
                        pass

    def _remove(self) -> None:
        """Remove what is there of the shard."""
        self._published = True  # or never: there is nothing left to do
        with suppress(OSError):  # a full disk: what could not be flushed is thrown away
            self._draft.close()
        with suppress(OSError):  # on a disk that fails there is still the draft, which the next run finds
            remove_tracks(self.files.layout, [entry.id for entry in self.entries])
            self.files.draft_index.unlink(missing_ok=True)
        self._remove_empty_folders()

    def __enter__(self) -> TrackShard:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._published:
            self._remove()


class _TrackNames:
    """Which names the tracks of clips can have in a folder."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        try:
            self._longest = os.pathconf(layout.folder, "PC_NAME_MAX")
        except (OSError, ValueError):
            self._longest = 255

    def check(self, id_: str) -> str:
        """The path below the folder of the clip's track.

        Raises ClipError for an id that no file can have as its name, and where there is a file already: hlfeat's own
        are listed in an index, or were removed when the run began.
        """
        try:
            name = track_name(id_)
        except ValueError as e:
            raise ClipError("bad-id", f"no file for its track: {e}") from e
        path = self._layout.folder / name
        try:
            if max(len(os.fsencode(part)) for part in (name + TEMPORARY).split("/")) > self._longest:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            os.lstat(temporary_of(path))
        except FileNotFoundError:
            pass
        except OSError as e:
            raise ClipError("bad-id", f"no file for its track: {e.strerror}") from e
        if os.path.lexists(path):
            raise ClipError("exists", f"{path} is there, and no track of this run")
        return name


def _folders_of(top: Path, paths: Iterable[Path]) -> list[Path]:
    """The folders of these files and all between them and the top, the deepest first."""
    return sorted({folder for path in paths for folder in path.parents if folder.is_relative_to(top)}, reverse=True)
