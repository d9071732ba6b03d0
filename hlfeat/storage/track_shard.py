"""Publishes pitch tracks: a CSV for each clip, and one index for many of them.

Text is collected in a file without a name, so that nothing half-made is in the folder. To publish, the index is written
first, as a draft: it says which CSV files may be there. Then these are written beside their names, synced and renamed;
at last the draft gets its name. A kill on the way leaves the draft, and whoever finds it removes what it lists.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from hlfeat.errors import ClipError, OutputError
from hlfeat.files import TEMPORARY, publish, sync, sync_folder
from hlfeat.storage.layout import TRACK_SUFFIX, Layout, ShardFiles, track_name
from hlfeat.storage.records import IndexEntry, index_lines, read_index

_AT_ONCE = 32  # files that are synced together: disks take many requests in the time of one
_PIECE = 1 << 20  # bytes that are copied at once


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
        self._ends: list[int] = []  # of each clip's text
        self._names = _TrackNames(files.layout)
        self._text: IO[bytes] = TemporaryFile(dir=files.layout.folder)

    def append(self, entry: IndexEntry, chunks: Iterable[tuple[bytes, int]]) -> None:
        """Add a clip: its text, and the frames of each chunk. An exception of `chunks` leaves the shard as it was.

        Raises ClipError where no file can have the clip's name.
        """
        name = self._names.check(entry.id)
        start, frames, checksum = self._size, 0, 0
        try:
            for text, n in chunks:
                self._text.write(text)
                checksum = zlib.crc32(text, checksum)
                frames += n
            end = self._text.tell()
        except BaseException:
            self._cut(start)
            raise
        self.entries.append(entry.placed(name, 0, frames, checksum))
        self._ends.append(end)

    def drop(self, clips: int) -> None:
        """Take back the last so many clips."""
        for _ in range(clips):
            self.entries.pop()
            self._ends.pop()
        self._cut(self._size)

    @property
    def _size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _cut(self, size: int) -> None:
        self._text.seek(size)
        self._text.truncate()

    def commit(self) -> list[Path]:
        """Publish the tracks, then the index. Returns the paths of the tracks."""
        layout, draft = self.files.layout, self.files.draft_index
        paths = [layout.track(entry.id) for entry in self.entries]
        try:
            with open(draft, "wb") as f:
                f.write(index_lines(self.entries))
                sync(f)
            sync_folder(layout.folder)
            folders = _make_folders(layout.folder, paths)
            self._write(paths)
            for path in paths:
                temporary_of(path).replace(path)
            for folder in folders:
                sync_folder(folder)
            publish(draft, self.files.index)
        except BaseException:
            with suppress(OSError):  # on a disk that fails there is still the draft, which the next run finds
                remove_tracks(layout, [entry.id for entry in self.entries])
                draft.unlink(missing_ok=True)
            raise
        return paths

    def _write(self, paths: Sequence[Path]) -> None:
        """Write all texts beside their names, and sync them."""
        self._text.seek(0)
        texts = zip(paths, self._ends, strict=True)
        start = 0
        with ThreadPoolExecutor(8, thread_name_prefix="sync") as threads:
            while some := list(islice(texts, _AT_ONCE)):
                with ExitStack() as opened:
                    files = []
                    for path, end in some:
                        file = opened.enter_context(open(temporary_of(path), "wb"))
                        _copy(self._text, file, end - start)
                        start = end
                        files.append(file)
                    for _ in threads.map(sync, files):
                        pass

    def __enter__(self) -> TrackShard:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk: what could not be flushed is thrown away
            self._text.close()


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


def temporary_of(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(path.name + TEMPORARY)


def is_track(name: str) -> bool:
    """Whether an index calls a clip's data by the name of a track."""
    return name.endswith(TRACK_SUFFIX)


def indexed_tracks(index: Path) -> Iterator[str]:
    """The ids of the clips whose tracks an index lists; none if it is of features, or a draft that is damaged, which is
    from before anything was published."""
    with suppress(OutputError):
        entries = list(islice(read_index(index), 1))
        if entries and is_track(entries[0].shard):
            yield from [entry.id for entry in read_index(index)]


def remove_tracks(layout: Layout, ids: Iterable[str], prune: bool = False) -> None:
    """Remove tracks and what was half-written of them; with `prune`, folders too that are empty then."""
    folders: set[Path] = set()
    for id_ in ids:
        with suppress(ValueError):
            path = layout.track(id_)
            for file in (path, temporary_of(path)):
                with suppress(FileNotFoundError, NotADirectoryError):
                    file.unlink()
            folders.update(path.relative_to(layout.folder).parents)
    if prune:
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):  # not empty, or no folder
                if folder.parts:
                    (layout.folder / folder).rmdir()


def check_tracks(layout: Layout, entries: Iterable[IndexEntry]) -> None:
    """Raises OutputError where the track of a clip is missing. Does not read it."""
    for entry in entries:
        try:
            path = layout.track(entry.id)
            there = stat.S_ISREG(os.stat(path).st_mode)
        except FileNotFoundError:
            there = False
        except (OSError, ValueError) as e:
            raise OutputError(f"{layout.folder}: the track of {entry.id!r} cannot be found: {e}") from e
        if not there:
            raise OutputError(f"{path}: is missing, though the index has it", remedy="overwrite")


def _make_folders(top: Path, paths: Iterable[Path]) -> list[Path]:
    """Make the folders of these files. Returns them and all between them and the top, the deepest first."""
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(top)}
    for folder in sorted(folders):
        folder.mkdir(exist_ok=True)
    return sorted(folders, reverse=True)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size:
        data = source.read(min(size, _PIECE))
        if not data:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        target.write(data)
        size -= len(data)
