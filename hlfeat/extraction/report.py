"""What a run did, or had done when it was interrupted: clips, hours, failures, seconds of each stage, versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hlfeat.extraction.contributors import distinct, version_notes, versions_in
from hlfeat.versions import versions

STAGES = ("decode", "resample", "compute", "wait", "write", "total")


@dataclass(frozen=True)
class Report:
    """What a run did, as in report.json.

    Attributes:
        clips, audio_seconds: clips that this run finished, and their duration in seconds.
        clips_before, seconds_before: those that earlier runs had finished.
        truncated: recordings among `clips` that were cut short, of which what is there was used.
        cut_segments: segments among `clips` that ended a little after their file.
        failures: lines of failures.jsonl: id, path, code, message.
        seconds: time spent in each stage, in seconds; what workers do (on a CPU computing too) is summed over them.
        device: name of the device.
        peak_bytes: the highest memory: of the device, or on a CPU of the process and what its workers add to it.
        complete: whether the output directory is complete; False while other parts are missing.
        parts: how many devices shared the run; None for one.
        skipped: files of the inputs' folders and archives that are not audio, by extension.
        hidden_folders: folders that were not searched, as their names begin with a dot.
        tf32: whether a GPU was allowed to multiply in TF32.
        interrupted: why the run ended early; None if it did not. The clips are then those of finished shards.
        sample_rates: how many clips of the directory, or of the part, have files of each rate (hertz).
        versions: of the libraries, of each run that made what is there.
        notes: a line about each thing that the features' user should know.

    >>> Report(clips=2, audio_seconds=7200.0).as_dict()["hours"]
    2.0
    """

    clips: int = 0
    audio_seconds: float = 0.0
    failures: list[dict[str, Any]] = field(default_factory=list)
    clips_before: int = 0
    seconds_before: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    device: str = ""
    peak_bytes: int = 0
    complete: bool = True
    parts: int | None = None
    truncated: int = 0
    cut_segments: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    hidden_folders: int = 0
    tf32: bool = False
    interrupted: str | None = None
    sample_rates: Mapping[int, int] = field(default_factory=dict)
    versions: Sequence[Mapping[str, str]] = field(default_factory=lambda: [versions()])
    notes: Sequence[str] = ()

    @classmethod
    def of_parts(cls, reports: Sequence[Report]) -> Report:
        """The report of all parts: sums, the longest time and the largest memory."""
        seconds = {stage: sum(r.seconds[stage] for r in reports) for stage in STAGES}
        return cls(
            clips=sum(r.clips for r in reports),
            audio_seconds=sum(r.audio_seconds for r in reports),
            failures=[failure for r in reports for failure in r.failures],
            clips_before=sum(r.clips_before for r in reports),
            seconds_before=sum(r.seconds_before for r in reports),
            seconds={**seconds, "total": max(r.seconds["total"] for r in reports)},
            device=", ".join(dict.fromkeys(r.device for r in reports)),
            peak_bytes=max(r.peak_bytes for r in reports),
            complete=any(r.complete for r in reports),
            parts=len(reports),
            truncated=sum(r.truncated for r in reports),
            cut_segments=sum(r.cut_segments for r in reports),
            skipped=_most(r.skipped for r in reports),
            hidden_folders=max(r.hidden_folders for r in reports),
            tf32=any(r.tf32 for r in reports),
            sample_rates=sum((Counter(r.sample_rates) for r in reports), Counter[int]()),
            versions=distinct(entry for r in reports for entry in r.versions),
            notes=list(dict.fromkeys(note for r in reports for note in r.notes)),
        )

    def as_dict(self) -> dict[str, Any]:
        """As report.json has it."""
        wall = self.seconds["total"]
        return {
            "complete": self.interrupted is None,
            **({} if self.interrupted is None else {"interrupted": self.interrupted}),
            "clips": self.clips + self.clips_before,
            "clips_this_run": self.clips,
            "hours": (self.seconds_before + self.audio_seconds) / 3600,
            "hours_this_run": self.audio_seconds / 3600,
            "truncated_this_run": self.truncated,
            "cut_segments_this_run": self.cut_segments,
            "failures": len(self.failures),
            "failures_by_code": dict(sorted(Counter(f["code"] for f in self.failures).items())),
            "skipped": dict(sorted(self.skipped.items())),
            "hidden_folders": self.hidden_folders,
            "sample_rates": {str(rate): self.sample_rates[rate] for rate in sorted(self.sample_rates)},
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "real_time_factor": self.audio_seconds / wall if wall else 0.0,
            "device": self.device,
            "tf32": self.tf32,
            "peak_memory_bytes": self.peak_bytes,
            **({} if self.parts is None else {"parts": self.parts}),
            "versions": list(self.versions),
            "notes": list(self.notes),
        }


def _most(skipped: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """What was skipped in a run of which each part has counted everything."""
    most: Counter[str] = Counter()
    for counts in skipped:
        most |= Counter(counts)
    return dict(sorted(most.items()))


def merge_reports(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report.json of a run in parts, from those of its parts, which are complete: sums, the longest time and the
    largest memory."""
    codes: Counter[str] = Counter()
    for r in reports:
        codes.update(r["failures_by_code"])
    seconds = {k: round(sum(r["seconds"].get(k, 0.0) for r in reports), 3) for k in STAGES}
    seconds["total"] = max(r["seconds"]["total"] for r in reports)
    rates: Counter[int] = Counter()
    for r in reports:
        rates.update({int(rate): clips for rate, clips in r.get("sample_rates", {}).items()})
    used = distinct(entry for r in reports for entry in versions_in(r))
    hours, this_run = (sum(r[key] for r in reports) for key in ("hours", "hours_this_run"))
    return {
        "complete": True,
        **{k: sum(r[k] for r in reports) for k in ("clips", "clips_this_run")},
        "hours": hours,
        "hours_this_run": this_run,
        **{k: sum(r.get(k, 0) for r in reports) for k in ("truncated_this_run", "cut_segments_this_run")},
        "failures": sum(r["failures"] for r in reports),
        "failures_by_code": dict(sorted(codes.items())),
        "skipped": _most(r.get("skipped", {}) for r in reports),
        "hidden_folders": max(r.get("hidden_folders", 0) for r in reports),
        "sample_rates": {str(rate): rates[rate] for rate in sorted(rates)},
        "seconds": seconds,
        "real_time_factor": this_run * 3600 / seconds["total"] if seconds["total"] else 0.0,
        "device": ", ".join(dict.fromkeys(r["device"] for r in reports)),
        "tf32": any(r.get("tf32", False) for r in reports),
        "peak_memory_bytes": max(r["peak_memory_bytes"] for r in reports),
        "parts": len(reports),
        "versions": used,
        "notes": version_notes(used),
    }
