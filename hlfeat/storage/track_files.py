"""The CSV files of pitch tracks as they lie: which ones an index lists, whether they are there, and removing them."""

from __future__ import annotations

import json
import os
import re
import stat
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hlfeat.errors import OutputError
from hlfeat.files import TEMPORARY
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import TRACK_SUFFIX, Layout

_PIECE = 1 << 20  # bytes that are read at once


def temporary_of(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(path.name + TEMPORARY)


def is_track(name: str) -> bool:
    """Whether an index calls a clip's data by the name of a track."""
    return name.endswith(TRACK_SUFFIX)


# The first keys of a line, which are left of one that was cut.
_LINE_START = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*"), "path": "(?:[^"\\]|\\.)*", "shard": ("(?:[^"\\]|\\.)*")')


def indexed_tracks(index: Path) -> list[str]:
    """The ids of the clips whose tracks an index or a draft lists; none if it is of features.

    Of a file that is damaged, it is the ids that can still be read: a line that was cut has its id at its beginning.
    """
    ids: list[str] = []
    with open(index, "rb") as f:
        for line in f:
            start = _LINE_START.match(line)
            if start is None:
                continue
            try:
                id_, name = map(json.loads, start.groups())
            except ValueError:
                continue
            if not is_track(name):
                return []
            if name == id_ + TRACK_SUFFIX:
                ids.append(id_)
    return ids


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


def track_checksum(path: Path) -> int:
    """The crc32 of a track as it is now."""
    checksum = 0
    with open(path, "rb") as f:
        while data := f.read(_PIECE):
            checksum = zlib.crc32(data, checksum)
    return checksum


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
            raise OutputError(f"{path}: is missing, though the index has it", remedy="repair")
