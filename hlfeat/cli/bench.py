"""hlfeat bench ...: the measurements as commands."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.log import set_up_logging
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
    need_place,
)
from hlfeat.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from matplotlib.figure import Figure

    from hlfeat.bench.tables import Row


bench_app = typer.Typer(
    no_args_is_help=True,
    help="Speed on this machine, against the plain alternatives.",
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
    batch: Annotated[int | None, typer.Option(min=1, help="Clips at once; default 16 on a GPU, 4 on the CPU.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Four settings, briefly.")] = False,
    json: JsonOption = None,
    plot: PlotOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Harmonic convolution against nn.Conv2d, deformable convolution and lowering."""
    set_up_logging(verbose, quiet=False)
    _check_targets(json, plot)
    from hlfeat.bench import harmonic as bench
    from hlfeat.nn.device import choose_device

    on = choose_device(device)
    batch = batch or (4 if on.type == "cpu" else 16)
    rows = _measured(f"harmonic, batch {batch}", on, json, lambda say: bench.run(on, batch, quick, say))
    if plot is not None:
        _draw(bench.picture(rows), plot)


@bench_app.command(
    "frontend",
    epilog=epilog(
        examples="""
            hlfeat bench frontend --quick
            hlfeat bench frontend --only 8G-opt --json frontend.json
            hlfeat bench frontend --device cuda --all --plot frontend.png
        """
    ),
)
def bench_frontend(
    device: DeviceOption = "auto",
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Settings with this in their name only; repeatable.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short inputs, three of the settings.")] = False,
    all: Annotated[
        bool, typer.Option("--all", help="On the CPU too, train at every input, not only at 16 x 16 s.")
    ] = False,
    json: JsonOption = None,
    plot: PlotOption = None,
    verbose: VerboseOption = False,
) -> None:
    """EfficientLEAF and LEAF against torchaudio's log-mel and plain torch versions."""
    set_up_logging(verbose, quiet=False)
    _check_targets(json, plot)
    from hlfeat.bench import frontend as bench
    from hlfeat.nn.device import choose_device

    on, settings = choose_device(device), bench.chosen(only or [])
    rows = _measured("frontend", on, json, lambda say: bench.run(on, settings, quick, all, say))
    if plot is not None:
        _draw(bench.picture(rows), plot)


def _check_targets(json: Path | None, plot: Path | None) -> None:
    """Refuse what could not be written at the end, before the time is spent."""
    for option, path in (("--json", json), ("--plot", plot)):
        if path is not None:
            need_place(option, path)
    if plot is not None:
        need_matplotlib()
        from hlfeat.plotting.figures import check_format

        check_format(plot)


def _draw(figure: Figure, path: Path) -> None:
    from hlfeat.plotting.figures import save

    save(figure, path)


@bench_app.command(
    "pipeline",
    epilog=epilog(
        examples="""
            hlfeat bench pipeline clips
            hlfeat bench pipeline clips -c eleaf-pcen --workers 8 --json pipeline.json
        """
    ),
)
def bench_pipeline(
    inputs: Annotated[
        list[str], typer.Argument(help="What extract takes: folders of audio, files, archives, manifests.")
    ],
    config: Annotated[
        list[str] | None,
        typer.Option("--config", "-c", **{**CONFIG, "help": "Repeatable; default: eleaf-8g-opt and log-mel."}),
    ] = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    batch_seconds: BatchSecondsOption = 64.0,
    workers: WorkersOption = WORKERS,
    laps: Annotated[int, typer.Option(min=1, help="Runs of each stage, of which the median counts.")] = 5,
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where features are written for a while; default: where files that "
                     "nobody keeps go (TMPDIR)."),
    ] = None,
    json: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Each stage of extract alone, and the whole: which of them bounds this machine, and how far off the whole is.

    The clips, up to 1 GiB of decoded audio, are held in memory, so that computing can be measured without reading.
    """
    set_up_logging(verbose, quiet=False)
    _check_targets(json, None)
    from hlfeat.bench import pipeline as bench
    from hlfeat.config.loading import load_config
    from hlfeat.extraction.options import Options
    from hlfeat.inputs.collect import collect_inputs
    from hlfeat.nn.device import choose_device
    from hlfeat.text import count

    on = choose_device(device)
    configs = {name: load_config(name, settings or []) for name in config or [DEFAULT, "log-mel"]}
    found = collect_inputs(inputs, sys.stdin.buffer)
    if scratch is not None and not scratch.is_dir():
        raise UsageError(f"--scratch {scratch}: expected a folder")
    options = Options(device=device, batch_seconds=batch_seconds, workers=workers)
    log = logging.getLogger("hlfeat")

    def run(say: Callable[[str], None]) -> list[Row]:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return bench.run(configs, found, options, on, Path(folder), laps, say, log.info)

    _measured(f"pipeline, {count(workers, 'worker')}", on, json, run)


def _measured(
    what: str, on: torch.device, json: Path | None, run: Callable[[Callable[[str], None]], list[Row]]
) -> list[Row]:
    """The rows of a bench, whose tables it prints as they are done."""
    from hlfeat.bench.tables import environment, write_json

    facts = environment(on)
    log = logging.getLogger("hlfeat")
    log.info("%s, torch %s: %s, float32, medians", facts["device"], facts["versions"]["torch"], what)
    rows = run(lambda table: print(table, end="", flush=True))
    if json is not None:
        write_json(json, what, on, rows)
    return rows
