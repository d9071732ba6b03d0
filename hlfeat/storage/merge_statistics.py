"""The statistics of whole feature directories, from those beside their shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hlfeat.errors import OutputError, UsageError
from hlfeat.statistics.dataset_statistics import Statistics
from hlfeat.statistics.moments import no_moments
from hlfeat.storage.feature_dir import FeatureDir

log = logging.getLogger("hlfeat")


def merge_statistics(paths: Sequence[Path]) -> Statistics:
    """Of all clips of one directory or more, of the same features.

    What has no statistics beside it is read, piece by piece.

    Raises:
        UsageError: features of different configurations or weights, or pooled ones.
        OutputError: no feature directory, a damaged one, one without features.
    """
    folders = [FeatureDir(path) for path in paths]
    first = folders[0]
    for folder in folders:
        pool = folder.description.features.pool
        if pool is not None:
            raise UsageError(f"{folder.folder}: expected frames, has vectors pooled over time ({pool})")
        if folder.frames_fingerprint != first.frames_fingerprint:
            raise UsageError(
                f"expected features of one configuration: {folder.folder} has the fingerprint "
                f"{folder.frames_fingerprint[:12]}, {first.folder} has {first.frames_fingerprint[:12]}"
            )
    clips, total = 0, no_moments(*first.shape)
    for folder in folders:
        before = clips
        for shard in folder.shards:
            own, frames = 0, 0
            for entry in folder.entries(shard):
                own += 1
                frames += entry.frames
            total += folder.statistics(shard, own, frames)[0].moments
            clips += own
        for why in folder.missing(clips - before, sum(1 for _ in folder.failures())):
            log.warning("%s is not complete: %s", folder.folder, why)
    if not total.frames:
        raise OutputError(f"{', '.join(str(p) for p in paths)}: there are no features of any clip in it")
    return Statistics(first.frames_fingerprint, clips, total.frames, total.mean, total.variance, total.min, total.max)
