"""What is in a feature directory, from its indexes and statistics, without reading the features."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.statistics.moments_sum import MomentsSum
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.formats import check_shard
from hlfeat.storage.layout import ShardFiles

MOST_BINS = 12


@dataclass(frozen=True)
class Inspection:
    """What is in a feature directory.

    Attributes:
        folder: the directory.
        durations: float64 [clips], in seconds, in order.
        moments: of all frames.
        data_bytes: of the features.
        data_suffix: of the shards, such as ".npy"; empty where there are none.
        silent: ids of clips whose samples are all 0; of shards in `without_statistics` this is not known.
        constant: ids of clips whose frames are all the same.
        without_statistics: names of shards that have no statistics beside them.
        failures: how many clips failed, by code.
        missing: why the directory is not complete.
    """

    folder: FeatureDir
    durations: np.ndarray
    moments: Moments
    data_bytes: int
    data_suffix: str
    silent: list[str]
    constant: list[str]
    without_statistics: list[str]
    failures: Counter[str]
    missing: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; statistics are null where there are no frames."""
        m, description = self.moments, self.folder.description.as_dict()
        statistics = {"mean": m.mean, "std": np.sqrt(m.variance), "min": m.min, "max": m.max}
        return {
            "folder": str(self.folder.folder),
            "clips": len(self.durations),
            "hours": float(self.durations.sum() / 3600),
            "frames": m.frames,
            "shape": list(self.folder.shape),
            "dtype": self.folder.dtype.name,
            "shards": len(self.folder.shards),
            "data_bytes": self.data_bytes,
            "complete": not self.missing,
            "missing": self.missing,
            "failures": self.failures.total(),
            "failures_by_code": dict(sorted(self.failures.items())),
            "silent": self.silent,
            "constant": self.constant,
            "shards_without_statistics": self.without_statistics,
            **{key: value.tolist() if m.frames else None for key, value in statistics.items()},
            "durations": [{"from": a, "to": b, "clips": n} for a, b, n in histogram(self.durations)],
            **{key: description[key] for key in ("fingerprint", "weights", "stats", "versions", "config")},
        }


def inspect(path: Path) -> Inspection:
    """What is in a feature directory, from its indexes and statistics.

    Statistics that an earlier version has not written are computed from the data, piece by piece.

    Raises:
        UsageError: not a feature directory.
        OutputError: what is read of it is damaged.
    """
    folder = FeatureDir(path)
    durations = array("d")
    moments = MomentsSum(no_moments(*folder.shape))
    silent: list[str] = []
    constant: list[str] = []
    data_bytes, data_suffix = 0, ""
    without_statistics = []
    for shard in folder.shards:
        data, clips, frames = _read_index(folder, shard, durations)
        check_shard(data, frames)
        data_bytes, data_suffix = data_bytes + data.stat().st_size, data.suffix
        statistics, stored = folder.statistics(shard, clips, frames)
        if not stored:
            without_statistics.append(data.name)
        moments.add(statistics.moments)
        silent += statistics.silent
        constant += statistics.constant
    failures = Counter(failure.code for failure in folder.failures())
    return Inspection(
        folder=folder,
        durations=np.array(durations),
        moments=moments.total,
        data_bytes=data_bytes,
        data_suffix=data_suffix,
        silent=silent,
        constant=constant,
        without_statistics=without_statistics,
        failures=failures,
        missing=folder.missing(len(durations), failures.total()),
    )


def _read_index(folder: FeatureDir, shard: ShardFiles, durations: array[float]) -> tuple[Path, int, int]:
    """The path of a shard's features, and its numbers of clips and frames; durations are appended."""
    clips, frames, name = 0, 0, ""
    for entry in folder.entries(shard):
        durations.append(entry.duration)
        clips += 1
        frames += entry.frames
        name = entry.shard
    if not clips:
        raise OutputError(f"{shard.index}: damaged: there is no clip in it")
    return folder.folder / name, clips, frames


def histogram(durations: np.ndarray) -> list[tuple[float, float, int]]:
    """Clips by duration: (from, up to but not included, number of clips) for each bin.

    Bins are equal steps, or 1, 2, 5, 10, ... where the longest clip is more than 20 times the shortest.
    """
    if not len(durations):
        return []
    low, high = float(durations.min()), float(durations.max())
    edges = [0.0, *_decades(max(low, 1e-3))] if high > 20 * max(low, 1e-3) else _steps(low, high)
    edges = [e for i, e in enumerate(edges) if i == 0 or edges[i - 1] <= high]
    first = max(0, int(np.searchsorted(edges, low, "right")) - 1)
    edges = edges[first:]
    counts = np.histogram(durations, [*edges[:-1], np.inf])[0].tolist()
    return [(a, b, n) for a, b, n in zip(edges, edges[1:], counts, strict=False)]


def _decades(low: float) -> list[float]:
    start = int(np.floor(np.log10(low)))
    return [float(f"{m}e{e}") for e in range(start, start + 12) for m in (1, 2, 5)]


def _steps(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`: a dozen, and up to two more on either side."""
    wanted = max(high - low, high / 2, 1e-3) / (MOST_BINS - 1)
    step = next(s for s in _decades(wanted) if s >= wanted)
    first, last = int(low / step), int(high / step)  # each may be one too many or too few, as quotients are rounded
    return [round(i * step, 9) for i in range(max(0, first - 1), last + 3)]
