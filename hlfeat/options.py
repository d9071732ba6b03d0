"""What the commands share: options, exit codes, how they speak. Nothing heavy is imported here."""

from __future__ import annotations

import logging
import os
import warnings
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer

from hlfeat.errors import UsageError


class Exit(IntEnum):
    """What the exit status says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SOME_CLIPS_FAILED = 3
    INTERRUPTED = 130


ConfigOption = Annotated[
    str, typer.Option("--config", "-c", metavar="NAME|FILE", help="A shipped configuration or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as frontend.n_filters=64; repeatable."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show tracebacks of errors.")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON too.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw them (needs hlfeat[plot]).")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that decode and, on a CPU, compute.")]
BatchSecondsOption = Annotated[float, typer.Option(min=0.01, help="Audio in a batch on a GPU, with padding.")]
DEFAULT = "eleaf-8g-opt"
WORKERS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def set_up_logging(verbose: bool, quiet: bool) -> None:
    from hlfeat.progress import TqdmHandler

    log = logging.getLogger("hlfeat")
    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("hlfeat: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)
    warnings.showwarning = lambda message, *_: log.warning("%s", " ".join(str(message).split()))


def need_place(option: str, path: Path) -> None:
    """Raises UsageError where no file of that name could be written."""
    from tempfile import TemporaryFile

    if path.is_dir():
        raise UsageError(f"{option} {path}: expected a file, found a folder")
    try:
        TemporaryFile(dir=path.parent).close()
    except OSError as e:
        raise UsageError(f"{option} {path}: cannot be written: {path.parent}: {e.strerror}") from e


def need_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib: pip install 'hlfeat[plot]'")
