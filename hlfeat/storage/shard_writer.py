"""Writes shards, and plans where they end: features of many clips, an index line for each, published when whole.

A file is written beside its name, synced and renamed. A shard's data comes first and its index last: a shard whose
index exists is complete, whatever happens afterwards.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hlfeat.files import TEMPORARY, sync
from hlfeat.storage.feature_format import FeatureWriter
from hlfeat.storage.formats import FORMATS
from hlfeat.storage.index_entry import IndexEntry, index_bytes
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.publisher import LOCAL, Publisher


class ShardWriter:
    """One shard, from its first clip to its commit; leaving the context without `commit` leaves no trace.

    Args:
        files: of the shard.
        format: a name in FORMATS.
        dtype: of the features.
        row_shape: channels and bands, or dims where features are pooled.
        publisher: gives the files their names.

    Attributes:
        path: of the features.
        entries: the index so far.
        rows: of all clips so far.
    """

    def __init__(
        self, files: ShardFiles, format: str, dtype: np.dtype[Any], *row_shape: int, publisher: Publisher = LOCAL
    ) -> None:
        self.files, self._publisher = files, publisher
        self.path = files.layout.shard(files.number, f".{format}")
        self._name = self.path.name
        self.dtype = dtype
        self.row_shape = row_shape
        self.entries: list[IndexEntry] = []
        self.rows = 0
        self._temporary = self.path.with_name(self.path.name + TEMPORARY)
        self._file = open(self._temporary, "wb")
        self._features: FeatureWriter = FORMATS[format].writer(self._file, row_shape, dtype)

    def append(self, entry: IndexEntry, chunks: Iterable[np.ndarray], crc32: int | None = None) -> None:
        """Add a clip; its place in the shard and its checksum are filled in.

        An exception that `chunks` raises leaves the shard as it was before.

        Args:
            crc32: of all bytes of the chunks, if it is known.

        Shape: chunks [n, *row_shape] each, of the writer's dtype.
        """
        row, checksum = self.rows, 0
        try:
            for chunk in chunks:
                if chunk.shape[1:] != self.row_shape or chunk.dtype != self.dtype:
                    raise ValueError(f"expected {self.dtype} [*, {self.row_shape}], got {chunk.dtype} {chunk.shape}")
                features = np.ascontiguousarray(chunk)
                if crc32 is None:
                    checksum = zlib.crc32(features.data, checksum)
                self.rows += len(features)
                self._features.write(entry.id, features)
        except BaseException:
            self._cut(entry.id, row)
            raise
        self.entries.append(entry.placed(self._name, row, self.rows - row, checksum if crc32 is None else crc32))

    def drop(self, clips: int) -> None:
        """Take back the last so many clips."""
        for _ in range(clips):
            entry = self.entries.pop()
            self._cut(entry.id, entry.row)

    def _cut(self, id_: str, rows: int) -> None:
        self.rows = rows
        self._features.drop(id_, rows)

    def commit(self, statistics: bytes | None = None, index: bytes | None = None) -> Path:
        """Publish data, then its statistics, then the index. Returns the path of the data.

        Args:
            index: its lines, where they have more than the entries.
        """
        self._publish()
        if statistics is not None:
            self._publisher.write(self.files.statistics, statistics)
        self._publisher.write(self.files.index, index_bytes(self.entries) if index is None else index)
        return self.path

    def _publish(self) -> None:
        self._features.finish(self.rows)
        sync(self._file)
        self._file.close()
        self._publisher.publish(self._temporary, self.path)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:  # a full disk: what could not be flushed is thrown away next
            pass
        finally:
            self._temporary.unlink(missing_ok=True)


class ShardPlan:
    """Decides for each clip whether a new shard begins with it.

    Args:
        max_clips, max_bytes: of a shard; None for any number.
        frame_bytes: of one frame of features.

    >>> plan = ShardPlan(max_clips=2, max_bytes=None, frame_bytes=4)
    >>> [plan.opens(clips=1, frames=100) for _ in range(5)]
    [False, False, True, False, True]
    """

    def __init__(self, max_clips: int | None, max_bytes: int | None, frame_bytes: int) -> None:
        self._max_clips, self._max_bytes, self._frame_bytes = max_clips, max_bytes, frame_bytes
        self._clips = self._bytes = 0  # of the open shard

    def opens(self, clips: int, frames: int) -> bool:
        """Whether the next `clips`, of `frames` each, do not fit into the open shard, and begin a new one."""
        size = clips * frames * self._frame_bytes
        full = (self._max_clips is not None and self._clips + clips > self._max_clips) or (
            self._max_bytes is not None and self._bytes + size > self._max_bytes
        )
        opens = full and self._clips > 0
        if opens:
            self.begin()
        self._clips += clips
        self._bytes += size
        return opens

    def begin(self) -> None:
        """Begin a new shard for another reason."""
        self._clips = self._bytes = 0
