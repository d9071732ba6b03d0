"""What the commands that run over clips share: their arguments, the run, and how it ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hlfeat.cli.dry_run import print_plan
from hlfeat.cli.errors import EXIT_STATUS_OF_CLIPS, Exit
from hlfeat.cli.parts import choose_part, local_device
from hlfeat.cli.process import Display, StopRequest, keep_stdout_for_paths, print_path
from hlfeat.errors import UsageError
from hlfeat.partition import Part

if TYPE_CHECKING:
    from hlfeat.config.config import Config
    from hlfeat.extraction.options import Options
    from hlfeat.extraction.product import Product
    from hlfeat.extraction.report import Report
    from hlfeat.inputs.collect import Inputs
    from hlfeat.storage.output_place import OutputPlace

log = logging.getLogger("hlfeat")


@dataclass(frozen=True)
class InputOptions:
    """How a command's inputs are read: the arguments of `collect_inputs`."""

    null: bool = False
    root: str | None = None
    audio_column: str | None = None
    retries: int = 5


def collect_clips(
    inputs: Sequence[str], manifests: Sequence[str], where: InputOptions, out: OutputPlace | None = None
) -> Inputs:
    """The clips of the command's arguments; '-' is a list on standard input.

    Args:
        out: what the run goes on with: files of clips that it has may be gone.
    """
    from hlfeat.inputs.collect import collect_inputs
    from hlfeat.storage.known_clips import known_ids_in

    clips = collect_inputs(
        list(inputs),
        sys.stdin.buffer,
        where.null,
        list(manifests),
        where.root,
        retries=where.retries,
        audio_column=where.audio_column,
    )
    clips.check_found(known_ids_in(out) if clips.unfound and out is not None else ())
    skipped = clips.describe_skipped()
    if skipped:
        log.info("%s", skipped)
    return clips


def output_place(out: str, retries: int) -> OutputPlace:
    """What -o says. Raises UsageError where nothing can be written there."""
    from hlfeat.remote.retries import Retries
    from hlfeat.storage.named_place import place_of

    if not out:
        raise UsageError("-o: expected a folder for the output, got an empty name")
    return place_of(out, Retries(retries))


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
  CUDA_VISIBLE_DEVICES              GPUs for cuda:0, ...
  RAY_ADDRESS                       the cluster of --on ray, HOST:PORT
  With --part auto only:
    SLURM_ARRAY_TASK_ID, ...        the task of an array
    RANK, WORLD_SIZE, LOCAL_RANK    the process of torchrun, and its GPU
    JOB_COMPLETION_INDEX            the pod of a Kubernetes job
"""


@dataclass(frozen=True)
class ClipJob:
    """What the arguments of a command say that runs over clips.

    Attributes:
        inputs, manifests: as typed; where: how they are read.
        out: the output.
        part: of the clips, as typed; that of `options` is not known yet.
        dry_run: say what would be done only.
        options: how to run, with the device as typed, or several.
        display: what standard error shows.
    """

    inputs: Sequence[str]
    manifests: Sequence[str]
    where: InputOptions
    out: OutputPlace
    part: str | None
    dry_run: bool
    options: Options
    display: Display

    def run(self, config: Config, product: Product, stop: StopRequest) -> None:
        """Make the product of the clips, whose finished files are printed.

        Failed clips end the command with Exit.SOME_CLIPS_FAILED, and a stop request with Exit.INTERRUPTED; what is
        finished stays.
        """
        if not self.inputs and not self.manifests:
            raise UsageError("expected audio files, folders, lists or a --manifest, got none")

        out = self.out
        there = None if self.options.overwrite else out
        clips = collect_clips(self.inputs, self.manifests, self.where, there)
        if self.part is not None and self.options.does_parts:
            raise UsageError(
                "--part: expected without --parts and --on, which do all parts (--part auto/N says of how many)"
            )
        part, source = choose_part(self.part, out, devices=len(self.options.devices))
        if source:
            log.info("part %s (%s)", part, source)
        device = self.options.device
        options = replace(self.options, part=part, device=local_device(device, os.environ) if source else device)
        if self.dry_run:
            product.check_place(out)
            with out.naming():
                print_plan(config, product, clips.clips, options, out)
            return
        report = _run(config, product, clips, out, options, stop, self.display)
        _summarise(report, out, part, self.display)
        if report.failures:
            raise typer.Exit(Exit.SOME_CLIPS_FAILED)


def _run(
    config: Config,
    product: Product,
    clips: Inputs,
    out: OutputPlace,
    options: Options,
    stop: StopRequest,
    display: Display,
) -> Report:
    """A stop request ends the command with Exit.INTERRUPTED."""
    from hlfeat.errors import HlfeatError, InterruptedRunError
    from hlfeat.extraction.extract import extract_clips
    from hlfeat.extraction.progress import Progress
    from hlfeat.extraction.run import Hooks
    from hlfeat.nn.device import choose_device

    if options.on is None:
        for name in options.devices:
            choose_device(name)
    keep_stdout_for_paths()
    stop.working = True
    progress = partial(Progress, mode=display.mode)
    hooks = Hooks(stopped=lambda: stop.asked, finished_shard=print_path, progress=progress)
    try:
        return extract_clips(config, clips, out, options, hooks, product=product)
    except InterruptedRunError as e:
        log.warning(
            "interrupted; what is finished is in %s, and the same command goes on from there",
            out,
            extra=display.ended_early(e, out),
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    except HlfeatError as e:
        e.facts = display.ended_early(e, out)
        raise


def _summarise(report: Report, out: OutputPlace, part: Part, display: Display) -> None:
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
        out,
        extra=display.summary({**facts, "output": str(out)}),
    )
    if report.truncated:
        log.warning("%s cut short: the index says how much is there", count(report.truncated, "recording"))
    if report.cut_segments:
        log.warning("%s cut to the end of their files", count(report.cut_segments, "segment"))
    if report.failures:
        layout = Layout(out.local or Path(), part)
        merged = layout.whole if report.complete else layout
        log.warning("%s: %s", failures_by_code(report), out.shown(merged.failures))
