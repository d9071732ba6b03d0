"""What the commands that run over clips share: their arguments, the run, and how it ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hlfeat.cli.errors import EXIT_STATUS_OF_CLIPS, Exit
from hlfeat.cli.parts import choose_part, local_device
from hlfeat.cli.process import Display, StopRequest, keep_stdout_for_paths, print_path
from hlfeat.errors import UsageError
from hlfeat.partition import Part

if TYPE_CHECKING:
    from hlfeat.audio.clip import Clip
    from hlfeat.config.config import Config
    from hlfeat.extraction.options import Options
    from hlfeat.extraction.product import Product
    from hlfeat.extraction.report import Report
    from hlfeat.extraction.setup import Pipeline
    from hlfeat.inputs.collect import Inputs
    from hlfeat.storage.layout import Layout

log = logging.getLogger("hlfeat")


def collect_clips(inputs: Sequence[str], manifests: Sequence[str], null: bool, root: Path | None = None) -> Inputs:
    """The clips of the command's arguments; '-' is a list on standard input."""
    from hlfeat.inputs.collect import collect_inputs

    clips = collect_inputs(list(inputs), sys.stdin.buffer, null, list(manifests), root)
    clips.check_found()
    skipped = clips.describe_skipped()
    if skipped:
        log.info("%s", skipped)
    return clips


def failures_by_code(report: Report) -> str:
    """'3 clips failed (empty 1, truncated 2)'."""
    from hlfeat.text import count

    facts = report.as_dict()
    codes = ", ".join(f"{code} {n}" for code, n in facts["failures_by_code"].items())
    return f"{count(facts['failures'], 'clip')} failed ({codes})"


# --- the run ---------------------------------------------------------------------------------------------------------

EXIT_STATUS_OF_RUNS = {
    **EXIT_STATUS_OF_CLIPS,
    Exit.DONE: "all clips done",
    Exit.FAILED: "the run failed",
    Exit.SOME_CLIPS_FAILED: "done, but some clips failed: FOLDER/failures.jsonl says why",
    Exit.INTERRUPTED: "interrupted; the same command resumes the run",
}
RUN_ENVIRONMENT = """
    CUDA_VISIBLE_DEVICES            GPUs for cuda:0, ...
  With --part auto only:
    SLURM_ARRAY_TASK_ID, ...        the task of an array
    RANK, WORLD_SIZE, LOCAL_RANK    the process of torchrun, and its GPU
    JOB_COMPLETION_INDEX            the pod of a Kubernetes job
"""


@dataclass(frozen=True)
class ClipJob:
    """What the arguments of a command say that runs over clips.

    Attributes:
        inputs, manifests: as typed; null: paths in lists end with NUL; root: the folder that they are relative to.
        out: the output directory.
        part: of the clips, as typed; that of `options` is not known yet.
        dry_run: say what would be done only.
        options: how to run, with the device as typed, or several.
        display: what standard error shows.
    """

    inputs: Sequence[str]
    manifests: Sequence[str]
    null: bool
    root: Path | None
    out: str
    part: str | None
    dry_run: bool
    options: Options
    display: Display

    def run(self, config: Config, product: Product, stop: StopRequest) -> None:
        """Make the product of the clips, whose finished files are printed.

        Failed clips end the command with Exit.SOME_CLIPS_FAILED, and a stop request with Exit.INTERRUPTED; what is
        finished stays.
        """
        if not self.out:
            raise UsageError("-o: expected a folder for the output, got an empty name")
        if not self.inputs and not self.manifests:
            raise UsageError("expected audio files, folders, lists or a --manifest, got none")
        from hlfeat.storage.layout import Layout

        clips, folder = collect_clips(self.inputs, self.manifests, self.null, self.root), Path(self.out)
        part, source = choose_part(self.part, folder, devices=len(self.options.devices))
        if source:
            log.info("part %s (%s)", part, source)
        device = self.options.device
        options = replace(self.options, part=part, device=local_device(device, os.environ) if source else device)
        if self.dry_run:
            some = clips.clips[part.slice(len(clips.clips))]
            print_plan(config, product, some, options.weights, options.stats, Layout(folder, part))
            return
        report = _run(config, product, clips, folder, options, stop, self.display)
        _summarise(report, folder, part, self.display)
        if report.failures:
            raise typer.Exit(Exit.SOME_CLIPS_FAILED)


def print_plan(
    config: Config,
    product: Product,
    clips: Sequence[Clip],
    weights: Path | None = None,
    stats: Path | None = None,
    layout: Layout | None = None,
) -> None:
    """Print what a run would make of the clips, and how much of it; and check that it can be built.

    Args:
        layout: of the output.
    """
    from hlfeat.text import count

    pipeline = product.prepare(config, weights, stats)
    what = product.describe(config, pipeline)
    print(f"hlfeat: {count(len(clips), 'clip')}; {what}; nothing was written", file=sys.stderr)
    if layout is not None:
        _print_size(config, product, pipeline, clips, layout)
    for clip in clips:
        log.debug("%s", clip)


def _print_size(config: Config, product: Product, pipeline: Pipeline, clips: Sequence[Clip], layout: Layout) -> None:
    """Print about how much a run would write, and what is free; warn where that is too little."""
    from hlfeat.extraction.estimate import estimate, free_bytes, written_bytes
    from hlfeat.text import count, duration, escape_unprintable, size

    found = estimate(config, product, pipeline, clips)
    if not found.answered:
        print(f"hlfeat: none of {count(found.asked, 'header')} says how long its clip is", file=sys.stderr)
        return
    free, written = free_bytes(layout.folder), written_bytes(layout)
    there = f", {size(written)} of which are there" if written else ""
    of = f"; from {count(found.asked, 'header')}" if found.asked < len(clips) else ""
    room = "" if free is None else f"; {size(free)} are free"
    print(
        f"hlfeat: about {size(found.size)} for about {duration(found.seconds)} of audio{there}{room}{of}",
        file=sys.stderr,
    )
    if free is not None and found.size - written > free:
        place = escape_unprintable(str(layout.folder))
        log.warning("%s: about %s do not fit, %s are free", place, size(found.size - written), size(free))


def _run(
    config: Config,
    product: Product,
    clips: Inputs,
    folder: Path,
    options: Options,
    stop: StopRequest,
    display: Display,
) -> Report:
    """A stop request ends the command with Exit.INTERRUPTED."""
    from hlfeat.errors import InterruptedRunError
    from hlfeat.extraction.extract import extract_clips
    from hlfeat.extraction.progress import Progress
    from hlfeat.extraction.run import Hooks
    from hlfeat.nn.device import choose_device

    for name in options.devices:
        choose_device(name)
    keep_stdout_for_paths()
    stop.working = True
    progress = partial(Progress, mode=display.mode)
    hooks = Hooks(stopped=lambda: stop.asked, finished_shard=print_path, progress=progress)
    try:
        return extract_clips(config, clips, folder, options, hooks, product=product)
    except InterruptedRunError:
        log.warning(
            "interrupted; what is finished is in %s, and the same command goes on from there",
            folder,
            extra=display.summary({**_report_there(folder, options.part), "output": str(folder)}),
        )
        raise typer.Exit(Exit.INTERRUPTED) from None


def _report_there(folder: Path, part: Part) -> dict[str, Any]:
    """The report of a run that was interrupted; that it was, where there is none."""
    from hlfeat.storage.layout import Layout
    from hlfeat.storage.run_parts import read_report

    report = read_report(Layout(folder, part).report) or {}
    return report if report.get("complete") is False else {"complete": False, "interrupted": "asked to stop"}


def _summarise(report: Report, folder: Path, part: Part, display: Display) -> None:
    """Log what the run did, and where its failures are listed."""
    from hlfeat.storage.layout import Layout
    from hlfeat.text import count, duration

    facts = report.as_dict()
    log.info(
        "%s, %s of audio, in %.1f s (%.0f times real time) on %s -> %s",
        count(facts["clips_this_run"], "clip"),
        duration(facts["hours_this_run"] * 3600),
        facts["seconds"]["total"],
        facts["real_time_factor"],
        facts["device"],
        folder,
        extra=display.summary({**facts, "output": str(folder)}),
    )
    if report.truncated:
        log.warning("%s cut short: the index says how much is there", count(report.truncated, "recording"))
    if report.cut_segments:
        log.warning("%s cut to the end of their files", count(report.cut_segments, "segment"))
    if report.failures:
        merged, of_part = Layout(folder).failures, Layout(folder, part).failures
        log.warning("%s: %s", failures_by_code(report), merged if merged.exists() else of_part)
