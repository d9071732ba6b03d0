"""hlfeat stats: what features are to be normalised by, of feature directories or of clips."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.exit_codes import Exit
from hlfeat.cli.log import set_up_logging
from hlfeat.cli.options import (
    DEFAULT,
    WORKERS,
    BatchSecondsOption,
    DevicesOption,
    ManifestOption,
    MaxFailuresOption,
    NullOption,
    QuietOption,
    SetOption,
    VerboseOption,
    WeightsOption,
    WorkersOption,
    complete_config,
    epilog,
)
from hlfeat.errors import OutputError, UsageError
from hlfeat.extraction.stop_signals import when_stopped

if TYPE_CHECKING:
    from hlfeat.statistics.dataset_statistics import Statistics


STATS_EPILOG = epilog(
    examples="""
        hlfeat stats features -o stats.json
        hlfeat stats clips -c eleaf-pcen -o stats.json
        hlfeat extract clips -c eleaf-pcen --stats stats.json -o features
    """
)


def stats(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="OUT...|CLIPS...", help="Folders of features; or clips, as for extract."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The statistics, as JSON.")],
    manifest: ManifestOption = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="NAME|FILE",
            help=f"Of the features of clips; default {DEFAULT}.",
            autocompletion=complete_config,
        ),
    ] = None,
    settings: SetOption = None,
    weights: WeightsOption = None,
    null: NullOption = False,
    device: DevicesOption = "auto",
    batch_seconds: BatchSecondsOption = 64.0,
    workers: WorkersOption = WORKERS,
    max_failures: MaxFailuresOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Mean, variance, least and greatest of every band, for extract --stats: one pass, and no features are written.

    Of folders of features they are those beside the shards, put together; of clips they are computed as extract does.
    Standard output has the path of the file.

    Exit status: 0 done, 1 failed or damaged, 2 usage or configuration, 3 done but some clips failed, 130 interrupted.
    """
    set_up_logging(verbose, quiet)
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"-o {out}: expected a file in a folder that is there")
    from hlfeat.storage.layout import Layout

    folders = [Path(i) for i in inputs or [] if Layout(Path(i)).description.exists()]
    if folders:
        of_clips: dict[str, object] = {"--manifest": manifest, "--config": config, "--set": settings}
        of_clips |= {"--weights": weights, "--null": null or None, "--max-failures": max_failures}
        wrong = [option for option, value in of_clips.items() if value is not None]
        if wrong:
            raise UsageError(f"{wrong[0]}: expected with clips only, not with folders of features")
        clips = [i for i in inputs or [] if Path(i) not in folders]
        if clips:
            raise UsageError(f"{clips[0]}: expected another folder of features, as {folders[0]} is one")
        from hlfeat.storage.merge_statistics import merge_statistics

        _write(merge_statistics(folders), out)
        return
    if not inputs and not manifest:
        raise UsageError("expected folders of features, or clips or a --manifest, got none")
    from hlfeat.config.loading import explained, load_config
    from hlfeat.extraction.options import Options
    from hlfeat.extraction.statistics_run import statistics_of_clips
    from hlfeat.inputs.collect import collect
    from hlfeat.text import count

    when_stopped(signal.default_int_handler)
    name, overrides = config or DEFAULT, settings or []
    cfg = load_config(name, overrides)
    found = collect(inputs or [], sys.stdin.buffer, null, manifest or [])
    log = logging.getLogger("hlfeat")
    if found.ignored:
        log.info("passed over %s, no audio by name", count(found.ignored, "file"))
    options = Options(device=device, batch_seconds=batch_seconds, workers=workers, max_failures=max_failures,
                      quiet=quiet, weights=weights)  # fmt: skip
    try:
        with explained(name, overrides):
            statistics, report = statistics_of_clips(cfg, found, out, options)
    except KeyboardInterrupt:
        log.warning("interrupted; nothing was written")
        raise typer.Exit(Exit.INTERRUPTED) from None
    facts = report.as_dict()
    failures = facts["failures"]
    if failures:
        codes = ", ".join(f"{code} {n}" for code, n in facts["failures_by_code"].items())
        log.warning("%s failed (%s), and are not in the statistics", count(failures, "clip"), codes)
    if statistics is None:
        raise OutputError(f"there are no features to make statistics of: {count(failures, 'clip')} failed")
    _write(statistics, out)
    if failures:
        raise typer.Exit(Exit.SOME_CLIPS_FAILED)


def _write(statistics: Statistics, out: Path) -> None:
    from hlfeat.text import count

    try:
        statistics.write(out)
    except OSError as e:
        raise OutputError(f"{out}: cannot be written: {e.strerror}") from e
    channels, bands = statistics.mean.shape
    logging.getLogger("hlfeat").info(
        "%s, %s of [%d, %d] -> %s",
        count(statistics.clips, "clip"),
        count(statistics.frames, "frame"),
        channels,
        bands,
        out,
    )
    with suppress(OSError):  # a reader that has gone away: the file is there
        os.write(sys.stdout.fileno(), os.fsencode(out) + b"\n")
