"""Options that several commands share, their completion, and the layout of a help text's end. Imports nothing heavy."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from textwrap import dedent, indent
from typing import Annotated, Any

import typer

from hlfeat.errors import UsageError
from hlfeat.extraction.options import default_workers


def complete_config(incomplete: str) -> list[str]:
    """Shipped configurations and YAML files; Typer takes those that begin so; without any, the shell offers files."""
    from hlfeat.config.loading import config_names

    folder, files = os.path.dirname(incomplete), list[str]()
    with suppress(OSError):
        files = sorted(f for f in os.listdir(folder or ".") if f.endswith((".yaml", ".yml")))
    return config_names() + [os.path.join(folder, f) for f in files]


def complete_device() -> list[str]:
    """Kinds of devices; looking for those that are there would take torch, and too long."""
    return ["auto", "cpu", "cuda", "mps"]


CONFIG: Any = {
    "metavar": "NAME|FILE",
    "help": "A shipped configuration or a YAML file.",
    "autocompletion": complete_config,
}
ConfigArgument = Annotated[str, typer.Argument(**CONFIG)]
ConfigOption = Annotated[str, typer.Option("--config", "-c", **CONFIG)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as frontend.n_filters=64; repeatable."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", autocompletion=complete_device)]
ManifestOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|FOLDER", help="A .csv, .tsv, .jsonl, .txt, .tar, or Kaldi data folder; repeatable."),
]
WeightsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Trained weights: .safetensors, or .pt (never unpickled).")
]
NullOption = Annotated[bool, typer.Option("-0", "--null", help="Paths in lists end with NUL, as find -print0 writes.")]
DevicesOption = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:N, mps; cuda:0,cuda:1 for a process on each.", autocompletion=complete_device
    ),
]
MaxFailuresOption = Annotated[int | None, typer.Option(min=0, metavar="N", help="Stop when more clips than this fail.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show tracebacks of errors.")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON too.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw them (needs hlfeat[plot]).")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that decode and, on a CPU, compute.")]
BatchSecondsOption = Annotated[float, typer.Option(min=0.01, help="Audio in a batch on a GPU, with padding.")]
DEFAULT = "eleaf-8g-opt"
WORKERS = default_workers()


def epilog(**sections: str) -> str:
    """What a command's help ends with: headings and lines as they are (click wraps what has no \\b before it)."""
    return "\n\n".join(
        f"\b\n{name.replace('_', ' ').capitalize()}:\n{indent(dedent(text).strip(), '  ')}"
        for name, text in sections.items()
    )


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
