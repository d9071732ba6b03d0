"""What is in a feature directory, from its indexes and statistics, without reading the features."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.inspection.damage import Damage, read_failure_codes
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.statistics.moments_sum import MomentsSum
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.formats import check_shard
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.place import Place
from hlfeat.storage.remote_file import DataFile, size_of

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
        damaged: what could not be read, and is not in the other figures.
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
    damaged: list[Damage]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; statistics are null where there are no frames."""
        m, description = self.moments, self.folder.description.as_dict()
        statistics: dict[str, Any] = dict.fromkeys(("mean", "std", "min", "max"))
        if m.frames:
            columns = (m.mean, np.sqrt(m.variance), m.min, m.max)
            statistics = {key: column.tolist() for key, column in zip(statistics, columns, strict=True)}
        return {
            "folder": str(self.folder.place),
            "clips": len(self.durations),
            "hours": float(self.durations.sum() / 3600),
            "frames": m.frames,
            "shape": list(self.folder.shape),
            "pool": self.folder.description.features.pool,
            "halves": list(self.folder.description.features.halves),
            "dtype": self.folder.dtype.name,
            "shards": len(self.folder.shards),
            "data_bytes": self.data_bytes,
            "complete": not self.missing,
            "missing": self.missing,
            "damaged": [asdict(damage) for damage in self.damaged],
            "failures": self.failures.total(),
            "failures_by_code": dict(sorted(self.failures.items())),
            "silent": self.silent,
            "constant": self.constant,
            "shards_without_statistics": self.without_statistics,
            **statistics,
            "durations": [{"from": a, "to": b, "clips": n} for a, b, n in histogram(self.durations)],
            **{key: description[key] for key in ("fingerprint", "weights", "stats", "versions", "config")},
        }


def inspect(path: Path | Place) -> Inspection:
    """What is in a feature directory, on this machine or at a place that is open, from its indexes and statistics.

    Statistics that an earlier version has not written are computed from the data, piece by piece. A damaged shard is
    named and left out.

    Raises:
        UsageError: not a feature directory.
        OutputError: its hlfeat.yaml is damaged.
    """
    folder = FeatureDir(path)
    found = _Shards(MomentsSum(no_moments(*folder.shape)))
    damaged: list[Damage] = []
    for shard in folder.shards:
        try:
            found.add(folder, shard)
        except OutputError as e:
            damaged.append(Damage(shard.name, folder.place.named(str(e))))
    failures, unreadable = read_failure_codes(folder)
    return Inspection(
        folder=folder,
        durations=np.array(found.durations),
        moments=found.moments.total,
        data_bytes=found.data_bytes,
        data_suffix=found.data_suffix,
        silent=found.silent,
        constant=found.constant,
        without_statistics=found.without_statistics,
        failures=failures,
        missing=folder.missing(len(found.durations), failures.total()),
        damaged=damaged + unreadable,
    )


@dataclass
class _Shards:
    """What is in the shards that were read; the attributes are those of Inspection."""

    moments: MomentsSum
    durations: array[float] = field(default_factory=lambda: array("d"))
    silent: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    data_bytes: int = 0
    data_suffix: str = ""
    without_statistics: list[str] = field(default_factory=list)

    def add(self, folder: FeatureDir, shard: ShardFiles) -> None:
        """Add a shard. Raises OutputError, with nothing added, where it is damaged."""
        durations, frames, data = _read_index(folder, shard)
        check_shard(data, frames)
        size = size_of(data)
        statistics, stored = folder.statistics(shard, len(durations), frames)
        self.durations += durations
        self.data_bytes, self.data_suffix = self.data_bytes + size, data.suffix
        self.moments.add(statistics.moments)
        self.silent += statistics.silent
        self.constant += statistics.constant
        if not stored:
            self.without_statistics.append(data.name)


def _read_index(folder: FeatureDir, shard: ShardFiles) -> tuple[array[float], int, DataFile]:
    """The durations of a shard's clips, their number of frames, and the file of their features."""
    durations, frames, name = array("d"), 0, ""
    for entry in folder.entries(shard):
        durations.append(entry.duration)
        frames += entry.frames
        name = entry.shard
    if not durations:
        raise OutputError(f"{shard.index}: damaged: there is no clip in it")
    return durations, frames, folder.place.data(name)


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
