"""hlfeat bench ...: measure speed on this machine."""

from __future__ import annotations

import logging
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.job import collect_clips
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
    need_matplotlib,
    need_writable,
)
from hlfeat.cli.process import set_up_logging
from hlfeat.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from hlfeat.bench.tables import Row

log = logging.getLogger("hlfeat")


class MeasuredEngine(str, Enum):
    """What computes features."""

    USUAL = "usual"
    NONE = "none"


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
        """
    ),
)
def bench_harmonic(
    device: DeviceOption = "auto",
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Clips at once; default: 16 on a GPU, 4 on a CPU.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure four settings only, briefly.")] = False,
    json: JsonOption = None,
    plot: PlotOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Measure harmonic convolution against nn.Conv2d.

    Deformable convolution and straightforward lowering are measured too.
    """
    set_up_logging(verbose)
    _check_targets(json, plot)
    from hlfeat.bench import harmonic as bench
    from hlfeat.nn.device import choose_device

    chosen = choose_device(device)
    batch = batch or (4 if chosen.type == "cpu" else 16)
    rows = _measured(f"harmonic, batch {batch}", chosen, json, lambda say: bench.run(chosen, batch, quick, say))
    if plot is not None:
        from hlfeat.plotting.figures import save

        save(bench.picture(rows), plot)


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
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure settings whose name contains NAME; repeatable.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure three settings only, on short inputs.")] = False,
    all: Annotated[
        bool, typer.Option("--all", help="Measure training for every input on a CPU too, not for 16 x 16 s only.")
    ] = False,
    busy: Annotated[
        int, typer.Option(min=0, metavar="N", help="Measure while N other processes compute, in a thread each.")
    ] = 0,
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
    from hlfeat.nn.device import choose_device

    chosen, settings = choose_device(device), bench.chosen(only or [])

    def run(say: Callable[[str], None]) -> list[Row]:
        with busy_processes(busy):
            rows = bench.run(chosen, settings, quick, all, say)
        return [{**row, "busy": busy} for row in rows]

    what = f"frontend, other processes at work: {busy}" if busy else "frontend"
    rows = _measured(what, chosen, json, run)
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
    collected = collect_clips(inputs, [], null=False)
    if scratch is not None and not scratch.is_dir():
        raise UsageError(f"--scratch {scratch}: expected a folder")
    options = Options(device=device, batch_seconds=batch_seconds, workers=workers)
    choices = bench.Choices(clip_seconds, clips, engine is MeasuredEngine.NONE, scaling)

    def run(say: Callable[[str], None]) -> list[Row]:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return bench.run(configs, collected, options, chosen, Path(folder), laps, say, log.info, choices)

    what = ["pipeline", count(workers, "worker")]
    what += [f"clips of {clip_seconds:g} s"] if clip_seconds is not None else []
    what += ["engine none"] if choices.zeros else []
    _measured(", ".join(what), chosen, json, run)


def _measured(
    what: str, device: torch.device, json: Path | None, run: Callable[[Callable[[str], None]], list[Row]]
) -> list[Row]:
    """Run a bench, print its table as it grows, and write its rows as JSON."""
    from hlfeat.bench.tables import environment, write_json

    facts = environment(device)
    log.info("%s, torch %s: %s, float32, medians", facts["device"], facts["versions"]["torch"], what)
    rows = run(lambda table: print(table, end="", flush=True))
    if json is not None:
        write_json(json, what, device, rows)
    return rows
