"""What is in a directory of pitch tracks, from its indexes."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.inspection.damage import Damage, read_failure_codes
from hlfeat.inspection.text import Fact, damaged_facts, directory_facts, duration_lines, fact_lines, made_by
from hlfeat.storage.place import Place
from hlfeat.storage.track_dir import TrackDir
from hlfeat.text import escape_unprintable


@dataclass(frozen=True)
class TrackInspection:
    """What is in a directory of pitch tracks, on this machine or at a place that is open.

    Attributes:
        folder: the directory.
        durations: float64 [clips], in seconds, in order.
        frames: of all clips.
        failures: how many clips failed, by code.
        missing: why the directory is not complete.
        damaged: what could not be read, and is not in the other figures.
    """

    folder: TrackDir
    durations: np.ndarray
    frames: int
    failures: Counter[str]
    missing: list[str]
    damaged: list[Damage]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        description = self.folder.description.as_dict()
        return {
            "folder": str(self.folder.place),
            "clips": len(self.durations),
            "hours": float(self.durations.sum() / 3600),
            "frames": self.frames,
            "complete": not self.missing,
            "missing": self.missing,
            "damaged": [asdict(damage) for damage in self.damaged],
            "failures": self.failures.total(),
            "failures_by_code": dict(sorted(self.failures.items())),
            **{key: description[key] for key in ("pitch", "fingerprint", "weights", "versions", "config")},
        }

    def lines(self, verified: bool = False) -> Iterator[str]:
        """What `hlfeat inspect` prints. `verified`: the directory has been verified, without a mismatch."""
        yield escape_unprintable(str(self.folder.place))
        yield from fact_lines(self._facts(verified))
        yield from duration_lines(self.durations)

    def _facts(self, verified: bool) -> Iterator[Fact]:
        pitch = self.folder.description.pitch
        how = ", along the best path" if pitch is not None and pitch.viterbi else ""
        rate = self.folder.description.features.frames_per_second
        holds = f"{self.frames} frames of pitch{f', {rate:g} a second' if rate else ''}{how}"
        yield from directory_facts(self.durations, ("tracks", holds), self.failures, self.missing)
        yield from damaged_facts(self.damaged, self.folder.place.remedy)
        if verified:
            yield "verified", "yes: sums, frames and ids are those of the tracks"
        yield from made_by(self.folder.description)


def inspect_tracks(path: Path | Place) -> TrackInspection:
    """What is in a directory of pitch tracks, on this machine or at a place that is open.

    Raises:
        UsageError: it is none.
        OutputError: its hlfeat.yaml is damaged.
    """
    folder = TrackDir(path)
    durations, frames = array("d"), 0
    damaged: list[Damage] = []
    for shard in folder.shards:
        try:
            entries = list(folder.entries(shard))
        except OutputError as e:
            damaged.append(Damage(shard.name, folder.place.named(str(e))))
            continue
        durations.extend(entry.duration for entry in entries)
        frames += sum(entry.frames for entry in entries)
    failures, unreadable = read_failure_codes(folder)
    missing = folder.missing(len(durations), failures.total())
    return TrackInspection(folder, np.array(durations), frames, failures, missing, damaged + unreadable)
