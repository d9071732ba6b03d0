"""hlfeat extract: features of clips into a directory."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from hlfeat.cli.checks import local_file
from hlfeat.cli.errors import naming_options, quoted
from hlfeat.cli.job import EXIT_STATUS_OF_RUNS, RUN_ENVIRONMENT, ClipJob, InputOptions, output_place
from hlfeat.cli.options import (
    DEFAULT,
    WORKERS,
    AudioColumnOption,
    BatchSecondsOption,
    ClipsArgument,
    ConfigOption,
    DevicesOption,
    DryRunOption,
    LogFormat,
    LogFormatOption,
    ManifestOption,
    MaxFailuresOption,
    NullOption,
    OnError,
    OnErrorOption,
    OnOption,
    OnTruncated,
    OnTruncatedOption,
    OverwriteOption,
    PartOption,
    PartsOption,
    ProgressMode,
    ProgressOption,
    QuietOption,
    RetriesOption,
    RetryFailedOption,
    RootOption,
    SetOption,
    Tf32Option,
    UpdateOption,
    VerboseOption,
    WeightsOption,
    WorkersOption,
    epilog,
)
from hlfeat.cli.own_configuration import Chosen, choose
from hlfeat.cli.process import Display, StopRequest, set_up_logging


class Format(str, Enum):
    """Formats of shards."""

    npy = "npy"
    pt = "pt"


class Dtype(str, Enum):
    """Types of stored features."""

    float32 = "float32"
    float16 = "float16"


EXTRACT_EPILOG = epilog(
    exit_status=EXIT_STATUS_OF_RUNS,
    environment=RUN_ENVIRONMENT,
    examples="""
            hlfeat extract clips -o features
            hlfeat extract --manifest segments.csv -o features -c eleaf-pcen
            hlfeat extract paths.txt -o s3://speech/features --part 3/16
            find clips -name '*.flac' -print0 | hlfeat extract -0 - -o features
        """,
)


def extract(
    inputs: ClipsArgument = None,
    *,
    out: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FOLDER|URL", help="Where the features go: a folder, or s3://BUCKET/PREFIX."
        ),
    ],
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    weights: WeightsOption = None,
    stats: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=local_file, help="Normalise every band by these statistics (hlfeat stats)."
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Pool over time: mean, mean+std, max, or window:SECONDS[,HOP]."),
    ] = None,
    null: NullOption = False,
    root: RootOption = None,
    audio_column: AudioColumnOption = None,
    format: Annotated[Format | None, typer.Option(help="Format of shards; default: the configuration's.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of features; default: the configuration's.")] = None,
    shard_size: Annotated[
        str | None, typer.Option(metavar="CLIPS|SIZE", help="Clips in a shard, or its size, such as 256MB or 1GiB.")
    ] = None,
    device: DevicesOption = "auto",
    batch_seconds: BatchSecondsOption = "auto",
    tf32: Tf32Option = False,
    workers: WorkersOption = WORKERS,
    part: PartOption = None,
    parts: PartsOption = None,
    on: OnOption = None,
    on_error: OnErrorOption = OnError.skip,
    on_truncated: OnTruncatedOption = OnTruncated.fail,
    max_failures: MaxFailuresOption = None,
    retries: RetriesOption = 5,
    retry_failed: RetryFailedOption = False,
    update: UpdateOption = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressMode.auto,
    log_format: LogFormatOption = LogFormat.text,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Extract features from clips.

    Writes them to FOLDER as sharded arrays with an index. Standard output has the path of each finished shard, one per
    line. The same command resumes a run that was stopped.
    """
    display = Display(progress.value, log_format.value, quiet)
    set_up_logging(verbose, quiet, display)
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
    place = output_place(out, retries)
    chosen = choose(Chosen(config or "", overrides, weights, stats), DEFAULT, place, overwrite)
    with place.naming(), naming_options(typed):
        cfg = load_config(chosen.name, overrides)
    from hlfeat.extraction.options import Options
    from hlfeat.extraction.product import FEATURES

    options = Options(
        device=device,
        batch_seconds=batch_seconds,
        workers=workers,
        on_error=on_error.value,
        on_truncated=on_truncated.value,
        max_failures=max_failures,
        retries=retries,
        overwrite=overwrite,
        retry_failed=retry_failed,
        update=update,
        quiet=quiet,
        weights=chosen.weights,
        stats=chosen.stats,
        tf32=tf32,
        parts=parts,
        on=on.value if on else None,
    )
    where = InputOptions(null, root, audio_column, retries)
    job = ClipJob(inputs or [], manifest or [], where, place, part, dry_run, options, display)
    with place.naming(), naming_options(typed), explained(chosen.name, overrides):
        job.run(cfg, FEATURES, stop)
