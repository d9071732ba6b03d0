"""hlfeat bench ...: measure speed on this machine."""

from __future__ import annotations

import logging
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.checks import need_matplotlib, need_writable
from hlfeat.cli.job import InputOptions, collect_clips
from hlfeat.cli.one_size import (
    AnchorOption,
    AxisOption,
    BinsPerOctaveOption,
    DtypeOption,
    FramesOption,
    InChannelsOption,
    KernelOption,
    OutChannelsOption,
    RowsOption,
    check_one_size,
    one_size,
)
from hlfeat.cli.options import (
    CONFIG,
    DEFAULT,
    WORKERS,
    BatchSecondsOption,
    DeviceOption,
    JsonOption,
    PlotOption,
    SetOption,
    VerboseOption,
    WorkersOption,
    epilog,
)
from hlfeat.cli.own_configuration import warn_of_files
from hlfeat.cli.process import set_up_logging
from hlfeat.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from hlfeat.bench.results import Done
    from hlfeat.bench.tables import Row

log = logging.getLogger("hlfeat")


class MeasuredEngine(str, Enum):
    """What computes features."""

    USUAL = "usual"
    NONE = "none"


OnlyOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Measure settings whose name contains NAME; repeatable.")
]
SecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", min=0.0, metavar="SECONDS", help="For how long a setting's candidates take turns."),
]
Tf32Option = Annotated[
    bool, typer.Option("--tf32/--no-tf32", help="On a GPU: multiply in TF32 (10 bits of mantissa), or in full float32.")
]


bench_app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on this machine.",
    rich_markup_mode=None,
    epilog=epilog(examples="hlfeat bench harmonic --quick\nhlfeat bench frontend --device cuda --plot frontend.png"),
)


@bench_app.command(
    "harmonic",
    epilog=epilog(
        examples="""
            hlfeat bench harmonic --quick
            hlfeat bench harmonic --device cuda --json harmonic.json --plot harmonic.png
            hlfeat bench harmonic --device cuda --tf32 --seconds 0.4
            hlfeat bench harmonic --rows 84 --bins-per-octave 12 --kernel 5x3
        """
    ),
)
def bench_harmonic(
    device: DeviceOption = "auto",
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Clips at once; default: 16 on a GPU, 4 on a CPU.")
    ] = None,
    in_channels: InChannelsOption = None,
    out_channels: OutChannelsOption = None,
    kernel: KernelOption = None,
    rows: RowsOption = None,
    frames: FramesOption = None,
    axis: AxisOption = None,
    bins_per_octave: BinsPerOctaveOption = None,
    anchor: AnchorOption = None,
    dtype: DtypeOption = None,
    only: OnlyOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure four settings only, briefly.")] = False,
    seconds: SecondsOption = None,
    tf32: Tf32Option = False,
    json: JsonOption = None,
    plot: PlotOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Measure harmonic convolution against nn.Conv2d.

    The settings are those of a paper, with deformable convolution and straightforward lowering beside both. Any of the
    options from --in-channels to --dtype gives a size of your own in their place: both convolutions take turns there,
    and the ratio of each lap is taken; q1 and q3 are the quartiles of these ratios, and half of the laps lie between.
    """
    set_up_logging(verbose)
    _check_targets(json, plot)
    given = {
        "in_channels": in_channels, "out_channels": out_channels, "kernel": kernel, "rows": rows, "frames": frames,
        "axis": axis, "bins_per_octave": bins_per_octave, "anchor": anchor,
    }  # fmt: skip
    check_one_size(given, dtype, only, quick)
    from hlfeat.bench import harmonic as bench
    from hlfeat.bench import one_size as own
    from hlfeat.bench.choosing import chosen as choose
    from hlfeat.nn.device import choose_device

    chosen, settings = choose_device(device), choose(bench.SETTINGS, only or [])
    batch = batch or (4 if chosen.type == "cpu" else 16)
    size = one_size(batch, given, dtype)
    what, columns = f"harmonic, batch {batch}", bench.COLUMNS
    if size is not None:
        what, columns = f"harmonic convolution, {size.name}, {size.precision}", own.columns(size.dtype)

    def run(done: Done) -> None:
        if size is None:
            bench.run(chosen, batch, quick, done, settings, seconds)
        else:
            own.run(size, chosen, done, seconds)

    measured = _measured(what, chosen, tf32, json, columns, run)
    if plot is not None:
        from hlfeat.plotting.figures import save

        save(bench.picture(measured), plot)


@bench_app.command(
    "frontend",
    epilog=epilog(
        examples="""
            hlfeat bench frontend --quick
            hlfeat bench frontend --only 8G-opt --json frontend.json
            hlfeat bench frontend --device cuda --all --plot frontend.png
            hlfeat bench frontend --only 8G-opt-80 --busy 2
        """
    ),
)
def bench_frontend(
    device: DeviceOption = "auto",
    only: OnlyOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure three settings only, on short inputs.")] = False,
    all: Annotated[
        bool, typer.Option("--all", help="Measure training for every input on a CPU too, not for 16 x 16 s only.")
    ] = False,
    busy: Annotated[
        int, typer.Option(min=0, metavar="N", help="Measure while N other processes compute, in a thread each.")
    ] = 0,
    seconds: SecondsOption = None,
    tf32: Tf32Option = False,
    json: JsonOption = None,
    plot: PlotOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Measure EfficientLEAF and LEAF against log-mel.

    The log-mel is torchaudio's. Plain torch versions of both frontends are measured too.
    """
    set_up_logging(verbose)
    _check_targets(json, plot)
    from hlfeat.bench import frontend as bench
    from hlfeat.bench.busy import busy_processes
    from hlfeat.bench.choosing import chosen as choose
    from hlfeat.nn.device import choose_device

    chosen, settings = choose_device(device), choose(bench.SETTINGS, only or [])

    def run(done: Done) -> None:
        def add(rows: Sequence[Row]) -> None:
            done([{**row, "busy": busy} for row in rows])

        with busy_processes(busy):
            bench.run(chosen, settings, quick, all, add, seconds)

    what = f"frontend, other processes at work: {busy}" if busy else "frontend"
    rows = _measured(what, chosen, tf32, json, bench.COLUMNS, run)
    if plot is not None:
        from hlfeat.plotting.figures import save

        save(bench.picture(rows), plot)


def _check_targets(json: Path | None, plot: Path | None) -> None:
    """Raises UsageError for a file that cannot be written, before the measurements begin."""
    for option, path in (("--json", json), ("--plot", plot)):
        if path is not None:
            need_writable(option, path)
    if plot is not None:
        need_matplotlib()
        from hlfeat.plotting.figures import check_format

        check_format(plot)


@bench_app.command(
    "pipeline",
    epilog=epilog(
        examples="""
            hlfeat bench pipeline clips
            hlfeat bench pipeline clips -c eleaf-pcen --workers 8 --json pipeline.json
            hlfeat bench pipeline clips --clip-seconds 1 --engine none --scaling
        """
    ),
)
def bench_pipeline(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUTS", help="What extract takes: folders of audio, files, archives, manifests."),
    ],
    config: Annotated[
        list[str] | None,
        typer.Option("--config", "-c", **{**CONFIG, "help": f"Repeatable; default: {DEFAULT} and log-mel."}),
    ] = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    batch_seconds: BatchSecondsOption = "auto",
    workers: WorkersOption = WORKERS,
    laps: Annotated[int, typer.Option(min=1, metavar="N", help="Runs of each stage; the median is reported.")] = 5,
    clip_seconds: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="SECONDS", help="Cut clips of this length from the inputs first (repeating "
                     "what is shorter), and measure these."),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option("--clips", min=1, metavar="N", help="Make so many clips, 4000 by default; without --clip-seconds, "
                     "use the first N."),
    ] = None,
    engine: Annotated[
        MeasuredEngine, typer.Option(help="none: features are zeros, so that nothing is computed.")
    ] = MeasuredEngine.USUAL,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Measure the whole with 1, 2, 4, ... workers too, up to --workers.")
    ] = False,
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where features are written, and removed again; default: the "
                     "folder for temporary files (TMPDIR)."),
    ] = None,
    json: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Measure the stages of extract, and all of it.

    Prints which stage is the bottleneck on this machine, and how close the whole run comes to it. Up to 1 GiB of
    decoded audio is held in memory, so that computing is measured without reading.
    """
    set_up_logging(verbose)
    _check_targets(json, None)
    from hlfeat.bench import pipeline as bench
    from hlfeat.config.loading import load_config
    from hlfeat.extraction.options import Options
    from hlfeat.nn.device import choose_device
    from hlfeat.text import count

    chosen = choose_device(device)
    configs = {name: load_config(name, settings or []) for name in config or [DEFAULT, "log-mel"]}
    for name in configs:
        warn_of_files(name, {})
    collected = collect_clips(inputs, [], InputOptions())
    if scratch is not None and not scratch.is_dir():
        raise UsageError(f"--scratch {scratch}: expected a folder")
    options = Options(device=device, batch_seconds=batch_seconds, workers=workers)
    choices = bench.Choices(clip_seconds, clips, engine is MeasuredEngine.NONE, scaling)

    def run(done: Done) -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            bench.run(configs, collected, options, chosen, Path(folder), laps, done, log.info, choices)

    what = ["pipeline", count(workers, "worker")]
    what += [f"clips of {clip_seconds:g} s"] if clip_seconds is not None else []
    what += ["engine none"] if choices.zeros else []
    _measured(", ".join(what), chosen, False, json, bench.COLUMNS, run)


@bench_app.command(
    "profile",
    epilog=epilog(
        examples="""
            hlfeat bench profile --device cuda
            hlfeat bench profile --audio 64 --top 30 --json profile.json
        """
    ),
)
def bench_profile(
    device: DeviceOption = "auto",
    audio: Annotated[
        list[float] | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Audio in a batch (clips of 8 s); repeatable; default: 64, 512."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="List the N kernels that take longest.")] = 12,
    tf32: Tf32Option = False,
    json: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """List the kernels of EfficientLEAF.

    8G-opt with 80 filters, for inference and for a training step: launches and time on the device. On a CPU these are
    torch's operations.
    """
    set_up_logging(verbose)
    _check_targets(json, None)
    from hlfeat.bench import profile as bench
    from hlfeat.nn.device import choose_device

    chosen = choose_device(device)

    def run(done: Done) -> None:
        bench.run(chosen, audio or bench.AUDIO, top, done)

    _measured("profile of EfficientLEAF 8G-opt, 80 filters", chosen, tf32, json, bench.COLUMNS, run)


def _measured(
    what: str,
    device: torch.device,
    tf32: bool,
    json: Path | None,
    columns: Mapping[str, str],
    run: Callable[[Done], None],
) -> list[Row]:
    """Run a bench in TF32 or in full float32; print its table and write its JSON as they grow."""
    from hlfeat.bench.results import Results, describe, environment
    from hlfeat.precision import float32_precision

    def say(lines: str) -> None:
        print(lines, end="", flush=True)

    with float32_precision(tf32):
        facts = environment(device)
        log.info("%s", describe(facts, what))
        results = Results(columns, say, {"bench": what, **facts}, json)
        run(results.add)
    results.finish()
    return results.rows
