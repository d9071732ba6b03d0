"""What is in a feature directory: gathered from its indexes and statistics, without reading the features."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.formats import check_shard

MOST_BINS = 12


@dataclass
class Inspection:
    """What is there.

    Attributes:
        durations: float64 [clips], seconds.
        moments: of all frames.
        silent, constant: ids; of shards in `without`, which have no statistics beside them, silence is not known.
        missing: why the directory is not complete.
    """

    folder: FeatureDir
    durations: np.ndarray
    moments: Moments
    data_bytes: int = 0
    data_suffix: str = ""
    silent: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        there, description = self.moments.frames > 0, self.folder.description.as_dict()
        return {
            "folder": str(self.folder.folder),
            "clips": len(self.durations),
            "hours": float(self.durations.sum() / 3600),
            "frames": self.moments.frames,
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
            "shards_without_statistics": self.without,
            "mean": self.moments.mean.tolist() if there else None,
            "std": np.sqrt(self.moments.variance).tolist() if there else None,
            "min": self.moments.min.tolist() if there else None,
            "max": self.moments.max.tolist() if there else None,
            "durations": [{"from": a, "to": b, "clips": n} for a, b, n in histogram(self.durations)],
            **{k: description.get(k) for k in ("fingerprint", "weights", "stats", "versions", "config")},
        }

    def dump(self) -> str:
        """As one line of JSON, ASCII: any file name survives."""
        return json.dumps(self.as_dict())


def inspect(path: Path) -> Inspection:
    """What is in the directory.

    Statistics that an earlier version has not written are computed from the data, piece by piece.

    Raises OutputError where that is not a feature directory, or what is read of it is damaged.
    """
    folder = FeatureDir(path)
    durations = array("d")
    found = Inspection(folder, np.zeros(0), no_moments(*folder.shape))
    for shard in folder.shards:
        before, frames, name = len(durations), 0, ""
        for entry in folder.entries(shard):
            durations.append(entry.duration)
            frames += entry.frames
            name = entry.shard
        if not name:
            raise OutputError(f"{shard.index}: damaged: there is no clip in it")
        data = path / name
        check_shard(data, frames)
        found.data_bytes += data.stat().st_size
        found.data_suffix = data.suffix
        own, there = folder.statistics(shard, len(durations) - before, frames)
        if not there:
            found.without.append(name)
        found.moments += own.moments
        found.silent += own.silent
        found.constant += own.constant
    found.durations = np.array(durations)
    found.failures.update(f.code for f in folder.failures())
    found.missing = folder.missing(len(durations), found.failures.total())
    return found


def histogram(durations: np.ndarray) -> list[tuple[float, float, int]]:
    """Clips by duration, from, up to (not included), how many: equal steps, or decades in 1, 2, 5 where lengths differ
    a lot."""
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
    """Round numbers from below `low` to above `high`, a dozen at most."""
    wanted = max(high - low, high / 2, 1e-3) / (MOST_BINS - 1)
    step = next(s for s in _decades(wanted) if s >= wanted)
    first = int(low / step)
    return [round((first + i) * step, 9) for i in range(int(high / step) - first + 2)]
