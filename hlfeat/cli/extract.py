"""hlfeat extract: features of clips into a directory."""

from __future__ import annotations

import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.errors import EXIT_STATUS_OF_CLIPS, Exit, naming_options, quoted
from hlfeat.cli.job import collect_clips, failures_by_code
from hlfeat.cli.options import (
    DEFAULT,
    WORKERS,
    BatchSecondsOption,
    ConfigOption,
    DevicesOption,
    ManifestOption,
    MaxFailuresOption,
    NullOption,
    OnTruncated,
    OnTruncatedOption,
    QuietOption,
    SetOption,
    Tf32Option,
    VerboseOption,
    WeightsOption,
    WorkersOption,
    epilog,
)
from hlfeat.cli.parts import choose_part, local_device
from hlfeat.cli.process import StopRequest, keep_stdout_for_paths, print_path, set_up_logging
from hlfeat.errors import UsageError
from hlfeat.partition import Part

if TYPE_CHECKING:
    from hlfeat.audio.clip import Clip
    from hlfeat.config.config import Config
    from hlfeat.extraction.options import Options
    from hlfeat.extraction.report import Report
    from hlfeat.inputs.collect import Inputs

log = logging.getLogger("hlfeat")


class Format(str, Enum):
    """Formats of shards."""

    npy = "npy"
    pt = "pt"


class Dtype(str, Enum):
    """Types of stored features."""

    float32 = "float32"
    float16 = "float16"


class OnError(str, Enum):
    """What the run does at a clip that cannot be used."""

    skip = "skip"
    stop = "stop"


EXTRACT_EPILOG = epilog(
    exit_status={
        **EXIT_STATUS_OF_CLIPS,
        Exit.DONE: "all clips done",
        Exit.FAILED: "the run failed",
        Exit.SOME_CLIPS_FAILED: "done, but some clips failed: FOLDER/failures.jsonl says why",
        Exit.INTERRUPTED: "interrupted; the same command resumes the run",
    },
    environment="""
            CUDA_VISIBLE_DEVICES            GPUs for cuda:0, ...
          With --part auto only:
            SLURM_ARRAY_TASK_ID, ...        the task of an array
            RANK, WORLD_SIZE, LOCAL_RANK    the process of torchrun, and its GPU
            JOB_COMPLETION_INDEX            the pod of a Kubernetes job
        """,
    examples="""
            hlfeat extract clips -o features
            hlfeat extract --manifest segments.csv -o features -c eleaf-pcen
            hlfeat extract paths.txt -o features --part 3/16 --device cuda:0,cuda:1
            find clips -name '*.flac' -print0 | hlfeat extract -0 - -o features
        """,
)


def extract(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUTS",
            help="Audio files, folders, .tar archives, lists of paths (*.txt), manifests; - is a list on stdin.",
        ),
    ] = None,
    *,
    out: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the features go.")],
    manifest: ManifestOption = None,
    config: ConfigOption = DEFAULT,
    settings: SetOption = None,
    weights: WeightsOption = None,
    stats: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Normalise every band by these statistics (hlfeat stats).")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Pool over time: mean, mean+std, max, or window:SECONDS[,HOP]."),
    ] = None,
    null: NullOption = False,
    format: Annotated[Format | None, typer.Option(help="Format of shards; default: the configuration's.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of features; default: the configuration's.")] = None,
    shard_size: Annotated[
        str | None, typer.Option(metavar="CLIPS|SIZE", help="Clips in a shard, or its size, such as 256MB or 1GiB.")
    ] = None,
    device: DevicesOption = "auto",
    batch_seconds: BatchSecondsOption = "auto",
    tf32: Tf32Option = False,
    workers: WorkersOption = WORKERS,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N|auto", help="Do the I-th of N parts; auto: the part of a job's task."),
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="What to do at a clip that cannot be used.")] = OnError.skip,
    on_truncated: OnTruncatedOption = OnTruncated.fail,
    max_failures: MaxFailuresOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try clips again that failed in earlier runs.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Compute clips again whose files have changed.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove what earlier runs wrote to FOLDER.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done; write nothing.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Extract features from clips.

    Writes them to FOLDER as sharded arrays with an index. Standard output has the path of each finished shard, one per
    line. The same command resumes a run that was stopped.
    """
    set_up_logging(verbose, quiet)
    stop = StopRequest()
    from hlfeat.config.loading import explained, load_config

    shortcuts = {
        "format": format and format.value,
        "dtype": dtype and dtype.value,
        "shard_size": shard_size,
        "pool": pool,
    }
    typed = {f"output.{k}={quoted(v)}": f"--{k.replace('_', '-')} {v}" for k, v in shortcuts.items() if v is not None}
    overrides = [*(settings or []), *typed]
    with naming_options(typed):
        cfg = load_config(config, overrides)
    if not out:
        raise UsageError("-o: expected a folder for the features, got an empty name")
    if not inputs and not manifest:
        raise UsageError("expected audio files, folders, lists or a --manifest to extract from, got none")
    clips = collect_clips(inputs or [], manifest or [], null)
    mine, job = choose_part(part, Path(out), devices=device.count(",") + 1)
    if job:
        log.info("part %s (%s)", mine, job)
    with naming_options(typed), explained(config, overrides):
        if dry_run:
            _dry_run(cfg, clips.clips[mine.slice(len(clips.clips))], weights, stats)
            return
        from hlfeat.extraction.options import Options

        options = Options(
            device=local_device(device, os.environ) if job else device,
            batch_seconds=batch_seconds,
            workers=workers,
            on_error=on_error.value,
            on_truncated=on_truncated.value,
            max_failures=max_failures,
            overwrite=overwrite,
            retry_failed=retry_failed,
            update=update,
            part=mine,
            quiet=quiet,
            weights=weights,
            stats=stats,
            tf32=tf32,
        )
        report = _run(cfg, clips, Path(out), options, stop)
    _summarise(report, Path(out), mine)
    if report.failures:
        raise typer.Exit(Exit.SOME_CLIPS_FAILED)


def _dry_run(cfg: Config, clips: list[Clip], weights: Path | None, stats: Path | None) -> None:
    """Print what a run would compute, and check that it can be built."""
    from hlfeat.extraction.setup import prepare
    from hlfeat.text import count

    extractor, postprocessor, _ = prepare(cfg, weights, stats)
    shape = f"[frames, {extractor.n_channels}, {extractor.n_bands}]"
    rate = extractor.sample_rate / extractor.hop
    pooled = "" if cfg.output.pool is None else f", pooled by {cfg.output.pool} to [vectors, {postprocessor.shape[0]}]"
    print(
        f"hlfeat: {count(len(clips), 'clip')}; features {shape} {cfg.output.dtype}, {rate:g} frames a second{pooled}; "
        "nothing was written",
        file=sys.stderr,
    )
    for clip in clips:
        log.debug("%s", clip)


def _run(cfg: Config, clips: Inputs, folder: Path, options: Options, stop: StopRequest) -> Report:
    """Extract. A stop request ends the command with Exit.INTERRUPTED; finished shards stay."""
    from hlfeat.errors import InterruptedRunError
    from hlfeat.extraction.extract import extract
    from hlfeat.nn.device import choose_device

    for name in options.devices:
        choose_device(name)
    keep_stdout_for_paths()
    stop.working = True
    try:
        return extract(cfg, clips, folder, options, stopped=lambda: stop.asked, finished_shard=print_path)
    except InterruptedRunError:
        log.warning("interrupted; finished shards are in %s, and the same command goes on from there", folder)
        raise typer.Exit(Exit.INTERRUPTED) from None


def _summarise(report: Report, folder: Path, part: Part) -> None:
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
    )
    if report.truncated:
        log.warning("%s cut short: the index says how much is there", count(report.truncated, "recording"))
    if report.cut_segments:
        log.warning("%s cut to the end of their files", count(report.cut_segments, "segment"))
    if report.failures:
        merged, of_part = Layout(folder).failures, Layout(folder, part).failures
        log.warning("%s: %s", failures_by_code(report), merged if merged.exists() else of_part)
