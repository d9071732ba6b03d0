"""hlfeat stats: statistics of feature directories or of clips, to normalise features by."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlfeat.cli.checks import local_file, refuse, refuse_own_file
from hlfeat.cli.errors import EXIT_STATUS_OF_CLIPS, Exit
from hlfeat.cli.job import InputOptions, collect_clips, failures_by_code
from hlfeat.cli.options import (
    CONFIG,
    DEFAULT,
    WORKERS,
    AudioColumnOption,
    BatchSecondsOption,
    DevicesOption,
    LogFormat,
    LogFormatOption,
    ManifestOption,
    MaxFailuresOption,
    NullOption,
    OnTruncated,
    OnTruncatedOption,
    ProgressMode,
    ProgressOption,
    QuietOption,
    RetriesOption,
    RootOption,
    SetOption,
    Tf32Option,
    VerboseOption,
    WeightsOption,
    WorkersOption,
    epilog,
)
from hlfeat.cli.own_configuration import warn_of_files
from hlfeat.cli.process import Display, print_path, set_up_logging
from hlfeat.errors import HlfeatError, OutputError, UsageError
from hlfeat.extraction.stop_signals import when_stopped

if TYPE_CHECKING:
    from hlfeat.config.config import Config
    from hlfeat.extraction.options import Options
    from hlfeat.inputs.collect import Inputs
    from hlfeat.statistics.dataset_statistics import Statistics

log = logging.getLogger("hlfeat")

STATS_EPILOG = epilog(
    exit_status=EXIT_STATUS_OF_CLIPS,
    examples="""
        hlfeat stats features -o stats.json
        hlfeat stats clips -c eleaf-pcen -o stats.json
        hlfeat extract clips -c eleaf-pcen --stats stats.json -o features
    """,
)


def stats(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUTS", help="Folders of features; or clips, as for extract."),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", parser=local_file, help="Where the statistics go, as JSON."),
    ],
    manifest: ManifestOption = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", **{**CONFIG, "help": f"Configuration for clips; default: {DEFAULT}."}),
    ] = None,
    settings: SetOption = None,
    weights: WeightsOption = None,
    null: NullOption = False,
    root: RootOption = None,
    audio_column: AudioColumnOption = None,
    device: DevicesOption = "auto",
    batch_seconds: BatchSecondsOption = "auto",
    tf32: Tf32Option = False,
    workers: WorkersOption = WORKERS,
    on_truncated: OnTruncatedOption = OnTruncated.fail,
    max_failures: MaxFailuresOption = None,
    retries: RetriesOption = 5,
    progress: ProgressOption = ProgressMode.auto,
    log_format: LogFormatOption = LogFormat.text,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compute per-band statistics of features.

    Computes mean, variance, minimum and maximum of every band, in one pass, for extract --stats. For folders of
    features, the statistics beside their shards are merged. For clips, features are computed as by extract, but not
    written. Standard output has the path of the file.
    """
    display = Display(progress.value, log_format.value, quiet)
    set_up_logging(verbose, quiet, display)
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"-o {out}: expected a file in an existing folder")
    refuse_own_file("-o", out)
    from hlfeat.storage.place import holds_features, open_place

    folders = [i for i in inputs or [] if holds_features(i)]
    if folders:
        of_clips: dict[str, object] = {"--manifest": manifest, "--config": config, "--set": settings}
        of_clips |= {"--weights": weights, "--null": null or None, "--root": root, "--max-failures": max_failures}
        of_clips |= {"--audio-column": audio_column}
        refuse(of_clips, "expected with clips only, not with folders of features")
        clips = [i for i in inputs or [] if i not in folders]
        if clips:
            raise UsageError(f"{clips[0]}: expected another folder of features, as {folders[0]} is one")
        from hlfeat.storage.merge_statistics import merge_statistics

        with ExitStack() as stack:
            statistics = merge_statistics([stack.enter_context(open_place(folder)) for folder in folders])
        _write(statistics, out)
        return
    if not inputs and not manifest:
        raise UsageError("expected folders of features, or clips or a --manifest, got none")
    from hlfeat.config.loading import explained, load_config
    from hlfeat.extraction.options import Options

    when_stopped(signal.default_int_handler)
    name, overrides = config or DEFAULT, settings or []
    cfg = load_config(name, overrides)
    warn_of_files(name, {"weights": weights})
    clip_list = collect_clips(inputs or [], manifest or [], InputOptions(null, root, audio_column, retries))
    with explained(name, overrides):
        options = Options(
            device=device,
            batch_seconds=batch_seconds,
            workers=workers,
            on_truncated=on_truncated.value,
            max_failures=max_failures,
            retries=retries,
            quiet=quiet,
            weights=weights,
            tf32=tf32,
        )
        failed = _of_clips(cfg, clip_list, out, options, display)
    if failed:
        raise typer.Exit(Exit.SOME_CLIPS_FAILED)


def _of_clips(cfg: Config, clips: Inputs, out: Path, options: Options, display: Display) -> int:
    """Compute and write the statistics of clips.

    Returns how many clips failed.
    """
    from hlfeat.extraction.progress import Progress
    from hlfeat.extraction.run import Hooks
    from hlfeat.extraction.statistics_run import statistics_of_clips
    from hlfeat.text import count

    try:
        hooks = Hooks(progress=partial(Progress, mode=display.mode))
        statistics, report = statistics_of_clips(cfg, clips, out, options, hooks=hooks)
    except KeyboardInterrupt:
        stopped = {"complete": False, "interrupted": "asked to stop", "output": str(out)}
        log.warning("interrupted; nothing was written", extra=display.summary(stopped))
        raise typer.Exit(Exit.INTERRUPTED) from None
    except HlfeatError as e:
        e.facts = display.ended_early(e, out)
        raise
    failed = len(report.failures)
    if failed:
        log.warning("%s, and are not in the statistics", failures_by_code(report))
    if statistics is None:
        error = OutputError(f"there are no features to make statistics of: {count(failed, 'clip')} failed")
        error.facts = display.ended_early(error, out)
        raise error
    _write(statistics, out, lambda: display.summary({**report.as_dict(), "output": str(out)}))
    return failed


def _write(statistics: Statistics, out: Path, facts: Callable[[], dict[str, Any]] = dict) -> None:
    """Write the statistics and log them, with these facts."""
    from hlfeat.text import count

    try:
        statistics.write(out)
    except OSError as e:
        raise OutputError(f"{out}: cannot be written: {e.strerror}") from e
    clips, shape = count(statistics.clips, "clip"), list(statistics.mean.shape)
    rows = count(statistics.frames, "frame" if statistics.pool is None else "vector")
    log.info("%s, %s of %s -> %s", clips, rows, shape, out, extra=facts())
    print_path(out)
