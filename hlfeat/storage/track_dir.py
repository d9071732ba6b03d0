"""A directory of pitch tracks as it lies."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

from hlfeat.errors import OutputError, UsageError
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import Layout
from hlfeat.storage.place import Place
from hlfeat.storage.run_dir import RunDir

_PIECE = 1 << 20  # bytes that are read at once


class TrackDir(RunDir):
    """The tracks of clips, each a CSV of its own.

    Raises:
        UsageError: that is not a directory of pitch tracks.
        OutputError: hlfeat.yaml is damaged.
    """

    def __init__(self, folder: Path | Place) -> None:
        super().__init__(folder)
        if self.description.pitch is None:
            raise UsageError(f"{self.place}: holds features, and no pitch tracks")

    def track(self, entry: IndexEntry) -> Path:
        """The file of a clip's track. Raises OutputError for an index that no run writes."""
        try:
            path = Layout(self.folder).track(entry.id)
        except ValueError as e:
            raise OutputError(f"{self.folder}: the index is damaged: {entry.id!r}: {e}") from e
        if path != self.folder / entry.shard:
            raise OutputError(f"{self.folder}: the index is damaged: {entry.id!r} has its track in {entry.shard!r}")
        return path

    def mismatch(self, entry: IndexEntry, progress: Callable[[int], object] = lambda n: None) -> str | None:
        """What is wrong with a clip's track: one line; None where it has the frames and the checksum of the index.

        Args:
            progress: called with the number of bytes that were read.
        """
        lines = checksum = 0
        try:
            path = self.track(entry)
            with self.place.data(entry.shard).open("rb") as f:
                while data := f.read(_PIECE):
                    checksum = zlib.crc32(data, checksum)
                    lines += data.count(b"\n")
                    progress(len(data))
        except OutputError as e:
            return str(e)
        except OSError as e:
            return f"{path}: cannot be read: {e.strerror}"
        if lines - 1 != entry.frames:
            return f"{path}: expected {entry.frames} frames as the index has, got {lines - 1}"
        if checksum != entry.crc32:
            return f"{path}: expected the sum crc32 {entry.crc32} as the index has, got {checksum}"
        return None
