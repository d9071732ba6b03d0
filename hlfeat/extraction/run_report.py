"""The report of a run: of what it has finished, whether it came to its end, was interrupted, or is at work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hlfeat.errors import HlfeatError, InterruptedRunError
from hlfeat.extraction.contributors import Versions, distinct, version_notes
from hlfeat.extraction.report import STAGES, Report, merge_reports
from hlfeat.extraction.resume import ResumeState
from hlfeat.extraction.run import ClipRun
from hlfeat.files import disk_error
from hlfeat.inputs.collect import Inputs
from hlfeat.nn.device import device_name, peak_memory
from hlfeat.storage.failure_record import FailureRecord
from hlfeat.versions import versions

AT_WORK = "it is at work, or was killed"  # why a run whose end nobody has reported is not complete


@dataclass(frozen=True)
class DirectoryReporter:
    """Makes the report of a run that writes to a directory.

    Attributes:
        run: which is to begin, or has come to its end, in whatever way.
        state: what earlier runs had left; earlier: the versions with which they made it.
        inputs: of all parts.
        started: when the run did, by `time.perf_counter`.
    """

    run: ClipRun
    state: ResumeState
    earlier: Sequence[Versions]
    inputs: Inputs
    started: float

    def begun(self, failed: Sequence[FailureRecord]) -> Report:
        """The report before the first shard. It has the versions of this run: a kill leaves no other trace of them."""
        return self._report(failed, AT_WORK, makes_features=True)

    def report(self, failed: Sequence[FailureRecord], interrupted: str | None = None) -> Report:
        """The report.

        Args:
            failed: all clips that failed, of earlier runs too.
            interrupted: why the run ended early.
        """
        return self._report(failed, interrupted, self.run.committed.clips > 0)

    def _report(self, failed: Sequence[FailureRecord], interrupted: str | None, makes_features: bool) -> Report:
        report = run_report(self.run, self.state, failed, self.started)
        made_now = [versions()] if makes_features or not self.earlier else []
        used = distinct([*self.earlier, *made_now])
        return replace(
            report,
            skipped=dict(self.inputs.skipped),
            hidden_folders=self.inputs.hidden_folders,
            interrupted=interrupted,
            versions=used,
            notes=[*version_notes(used), *self._notes(report.sample_rates)],
        )

    def merge(self, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The report.json of all parts, from theirs."""
        merged = merge_reports(reports)
        rates = {int(rate): clips for rate, clips in merged["sample_rates"].items()}
        return {**merged, "notes": [*merged["notes"], *self._notes(rates)]}

    def _notes(self, sample_rates: Mapping[int, int]) -> list[str]:
        job = self.run.job
        return job.product.notes(job.config, sample_rates, job.options)


def run_report(run: ClipRun, state: ResumeState, failed: Sequence[FailureRecord], started: float) -> Report:
    """What the run has done, in shards that are closed; the arguments are those of a DirectoryReporter."""
    seconds, tally = {stage: run.clock.seconds[stage] for stage in STAGES}, run.committed
    return Report(
        clips=tally.clips,
        audio_seconds=tally.seconds,
        truncated=tally.truncated,
        cut_segments=tally.cut_segments,
        sample_rates=Counter(state.sample_rates) + tally.sample_rates,
        failures=[failure.as_dict() for failure in failed],
        clips_before=state.entries,
        seconds_before=state.seconds,
        seconds={**seconds, "total": time.perf_counter() - started},
        device=device_name(run.job.device),
        tf32=run.job.options.tf32,
        peak_bytes=peak_memory(run.job.device) + (run.job.pool.peak_bytes if run.job.device.type == "cpu" else 0),
    )


def reason_of(error: BaseException, folder: Path) -> str:
    """Why a run in this folder ended early, on one line."""
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return "asked to stop"
    if isinstance(error, OSError):
        error = disk_error(error, folder)
    text = str(error) if isinstance(error, HlfeatError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def attach_report(error: Exception, reports: Sequence[Mapping[str, Any]]) -> None:
    """Give the error that ends a run the report of it, from those of its parts that could still tell."""
    if reports and isinstance(error, HlfeatError):
        error.report = {**merge_reports(reports), "complete": False, "interrupted": reason_of(error, Path())}
