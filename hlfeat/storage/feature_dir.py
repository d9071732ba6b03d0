"""A feature directory as it lies: its description, and its shards one at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.config.fingerprint import frames_fingerprint
from hlfeat.errors import OutputError, UsageError
from hlfeat.statistics.moments import moments, no_moments
from hlfeat.statistics.shard_statistics import ShardStatistics, read_shard_statistics
from hlfeat.storage.feature_format import FeatureReader
from hlfeat.storage.formats import open_reader
from hlfeat.storage.layout import Layout, ShardFiles
from hlfeat.storage.place import Place
from hlfeat.storage.remote_file import size_of
from hlfeat.storage.run_dir import RunDir

log = logging.getLogger("hlfeat")

WHOLE_BYTES = 1 << 24  # of a clip that is read in one piece


def whole_if_short(pieces: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The pieces of a clip of so many bytes as one, unless it is very long: moments are then summed as a run has done.

    Shape: [n, *row_shape] each -> the same.
    """
    if size > WHOLE_BYTES:
        yield from pieces
        return
    read = list(pieces)
    yield read[0] if len(read) == 1 else np.concatenate(read)


class FeatureDir(RunDir):
    """What hlfeat.yaml says and which files there are; everything else is read when it is asked for.

    Raises:
        UsageError: that is not a feature directory.
        OutputError: hlfeat.yaml is damaged.

    Attributes:
        shape: of a row of the features: (channels, bands), or (dims,) of pooled ones.
        dtype: of the features.
        frames_fingerprint: of the frames, however they are stored.
    """

    def __init__(self, folder: Path | Place) -> None:
        super().__init__(folder)
        folder = self.folder
        if self.description.pitch is not None:
            raise UsageError(f"{folder}: not a feature directory: it holds pitch tracks")
        self.shape = self.description.features.row
        weights, stats = self.description.weights, self.description.stats
        digests = (None if file is None else file.sha256 for file in (weights, stats))
        try:
            self.dtype: np.dtype[Any] = np.dtype(self.description.config["output"]["dtype"])
            self.frames_fingerprint = frames_fingerprint(dict(self.description.config), *digests)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            path = Layout(folder).description
            raise OutputError(f"{path}: damaged: expected the layout of features") from e

    def stored_statistics(self, shard: ShardFiles) -> ShardStatistics | None:
        """The statistics beside a shard; None where an earlier version wrote none."""
        return read_shard_statistics(shard.statistics, *self.shape)

    def statistics(self, shard: ShardFiles, clips: int, frames: int) -> tuple[ShardStatistics, bool]:
        """The statistics of a shard of so many clips and frames, and whether they were beside it.

        Statistics that an earlier version has not written are computed from the data.

        Raises OutputError where they are damaged, or of other clips than the index lists.
        """
        stored = self.stored_statistics(shard)
        if stored is None:
            name = self.place.named(str(shard.statistics))
            log.info("%s is missing (earlier versions wrote none): computing it from the data", name)
        statistics = self.compute(shard) if stored is None else stored
        if (statistics.clips, statistics.moments.frames) != (clips, frames):
            content = f"{statistics.clips} clips and {statistics.moments.frames} frames"
            raise OutputError(f"{shard.statistics}: damaged: of {content}, the index has {clips} and {frames}")
        return statistics, stored is not None

    def open_shard(self, shard: ShardFiles, name: str) -> FeatureReader:
        """The data of a shard, whose file the index calls by this name."""
        if name in (path.name for path in shard.data):
            return open_reader(self.place.data(name), self.shape, self.dtype)
        raise OutputError(f"{shard.index}: damaged: expected {shard.expected_names}, got {name!r}")

    def compute(self, shard: ShardFiles) -> ShardStatistics:
        """The statistics of a shard from its data; silence is not known, because features do not tell it.

        Raises OutputError where index or data are damaged.
        """
        statistics = ShardStatistics.of(*self.shape)
        reader: FeatureReader | None = None
        try:
            for entry in self.entries(shard):
                reader = reader or self.open_shard(shard, entry.shard)
                of_clip = reduce(add, map(moments, reader.read(entry)), no_moments(*self.shape))
                statistics.add(entry.id, of_clip, silent=False)
        finally:
            if reader is not None:
                reader.close()
        return statistics

    def size(self) -> int:
        """Bytes of the features of all shards."""
        return sum(size_of(file) for shard in self.shards for file in self.place.data_of(shard))
