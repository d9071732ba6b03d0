"""Merges the statistics beside the shards of feature directories into those of the whole data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hlfeat.errors import OutputError, UsageError
from hlfeat.statistics.dataset_statistics import Statistics
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.place import Place

log = logging.getLogger("hlfeat")


def merge_statistics(paths: Sequence[Path | Place]) -> Statistics:
    """The statistics of all clips of one directory or more, which must have features of one configuration.

    Where there are no statistics beside a shard, its features are read.

    Raises:
        UsageError: features of different configurations or weights, or pooled in different ways.
        OutputError: no feature directory, a damaged one, one without features.
    """
    folders = [FeatureDir(path) for path in paths]
    first = folders[0]
    for folder in folders:
        _check_frames(folder, first)
    clips, total = 0, no_moments(*first.shape)
    for folder in folders:
        folder_clips, total = _add_shards(total, folder)
        for reason in folder.missing(folder_clips, sum(1 for _ in folder.failures())):
            log.warning("%s is not complete: %s", folder.place, reason)
        clips += folder_clips
    if not total.frames:
        raise OutputError(f"{', '.join(str(p) for p in paths)}: there are no features of any clip in it")
    arrays = (total.mean, total.variance, total.min, total.max)
    return Statistics(first.frames_fingerprint, clips, total.frames, *arrays, pool=first.description.features.pool)


def _check_frames(folder: FeatureDir, first: FeatureDir) -> None:
    """Raises UsageError for features of another configuration than the first directory's, or pooled otherwise."""
    if folder.description.features.pool != first.description.features.pool:
        raise UsageError(f"{folder.place}: expected {_rows(first)} as in {first.place}, has {_rows(folder)}")
    if folder.frames_fingerprint != first.frames_fingerprint:
        raise UsageError(
            f"expected features of one configuration: {folder.place} has the fingerprint "
            f"{folder.frames_fingerprint[:12]}, {first.place} has {first.frames_fingerprint[:12]}"
        )


def _rows(folder: FeatureDir) -> str:
    pool = folder.description.features.pool
    return "frames" if pool is None else f"vectors pooled over time ({pool})"


def _add_shards(total: Moments, folder: FeatureDir) -> tuple[int, Moments]:
    """The number of clips of a directory, and the moments with those of their frames added, in order."""
    clips = 0
    for shard in folder.shards:
        shard_clips, frames = 0, 0
        for entry in folder.entries(shard):
            shard_clips += 1
            frames += entry.frames
        total += folder.statistics(shard, shard_clips, frames)[0].moments
        clips += shard_clips
    return clips, total
