"""hlfeat pitch: pitch tracks of clips as CSV."""

from __future__ import annotations

from typing import Annotated

import typer

from hlfeat.cli.job import EXIT_STATUS_OF_RUNS, RUN_ENVIRONMENT, ClipJob, InputOptions, output_place
from hlfeat.cli.options import (
    WORKERS,
    AudioColumnOption,
    BatchSecondsOption,
    ClipsArgument,
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
    config_of_folder,
    epilog,
)
from hlfeat.cli.own_configuration import Chosen, choose
from hlfeat.cli.process import Display, StopRequest, set_up_logging

PITCH_CONFIG = "pitch-salience"
PITCH_EPILOG = epilog(
    exit_status=EXIT_STATUS_OF_RUNS,
    environment=RUN_ENVIRONMENT,
    examples="""
        hlfeat pitch clips -o pitch
        hlfeat pitch clips -o pitch -c pitch-salience-fine --viterbi
        hlfeat pitch paths.txt -o pitch --part 3/16
    """,
)


def pitch(
    inputs: ClipsArgument = None,
    *,
    out: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the tracks go.")],
    manifest: ManifestOption = None,
    config: Annotated[str | None, config_of_folder(PITCH_CONFIG)] = None,
    settings: SetOption = None,
    weights: WeightsOption = None,
    viterbi: Annotated[
        bool, typer.Option("--viterbi", help="Look for the best path through all frames of a clip.")
    ] = False,
    null: NullOption = False,
    root: RootOption = None,
    audio_column: AudioColumnOption = None,
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
    """Track the pitch of clips.

    Writes FOLDER/ID.f0.csv for each clip: time in seconds, frequency in hertz (0 where there is no pitch), and a
    confidence from 0 to 1. Standard output has the path of each finished file, one per line. The same command resumes
    a run that was stopped.
    """
    display = Display(progress.value, log_format.value, quiet)
    set_up_logging(verbose, quiet, display)
    stop = StopRequest()
    from hlfeat.config.loading import explained, load_config

    overrides = settings or []
    given = Chosen(config or "", overrides, weights, viterbi=viterbi)
    from hlfeat.extraction.options import Options
    from hlfeat.extraction.pitch_tracks import PitchTracks

    place = output_place(out, retries)
    PitchTracks().check_place(place)
    chosen = choose(given, PITCH_CONFIG, place, overwrite, pitch=True)
    cfg = load_config(chosen.name, overrides)
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
        tf32=tf32,
        parts=parts,
        on=on.value if on else None,
    )
    where = InputOptions(null, root, audio_column, retries)
    job = ClipJob(inputs or [], manifest or [], where, place, part, dry_run, options, display)
    with explained(chosen.name, overrides):
        job.run(cfg, PitchTracks(chosen.viterbi), stop)
