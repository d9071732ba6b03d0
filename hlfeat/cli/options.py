"""Options that several commands share, and the end of their help. Imports nothing heavy."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from textwrap import dedent, indent
from typing import Annotated, Any

import typer

from hlfeat.cli.checks import local_file
from hlfeat.cli.errors import EXIT_STATUS, Exit
from hlfeat.extraction.options import default_workers

DEFAULT = "eleaf-8g-opt"  # config.loading.DEFAULT_CONFIG, without its imports
WORKERS = default_workers()


# --- completion ------------------------------------------------------------------------------------------------


def complete_config(incomplete: str) -> list[str]:
    """Shipped configurations and YAML files; typer filters them by prefix. If none is left, the shell offers files."""
    from hlfeat.config.loading import config_names

    folder, files = os.path.dirname(incomplete), list[str]()
    with suppress(OSError):
        files = sorted(f for f in os.listdir(folder or ".") if f.endswith((".yaml", ".yml")))
    return config_names() + [os.path.join(folder, f) for f in files]


def complete_device() -> list[str]:
    """Kinds of devices. Listing those of this machine would import torch, which takes too long."""
    return ["auto", "cpu", "cuda", "mps"]


# --- what to compute -------------------------------------------------------------------------------------------

CONFIG: Any = {
    "metavar": "NAME|FILE",
    "help": "A shipped configuration or a YAML file.",
    "autocompletion": complete_config,
}
ConfigArgument = Annotated[str, typer.Argument(**CONFIG)]


def config_of_folder(default: str) -> Any:
    """The option of commands that take the configuration of an existing folder if none is given."""
    text = f"A shipped configuration, a YAML file or a run's hlfeat.yaml; default: that of FOLDER, or {default}."
    return typer.Option("--config", "-c", callback=_not_empty, **{**CONFIG, "help": text})


def _not_empty(name: str | None) -> str | None:
    if name == "":
        raise typer.BadParameter("expected a name or a file, got an empty name")
    return name


ConfigOption = Annotated[str | None, config_of_folder(DEFAULT)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as frontend.n_filters=64; repeatable."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=local_file, help="Trained weights: .safetensors, or .pt (never unpickled)."),
]

# --- which clips -----------------------------------------------------------------------------------------------

ClipsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUTS",
        help="Audio files, folders, .tar archives, .parquet tables, lists of paths (*.txt), manifests, or URLs of them "
        "(s3://...); - is a list on stdin.",
    ),
]
ManifestOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|FOLDER", help="A .csv, .tsv, .jsonl, .txt, .tar, or Kaldi data folder; repeatable."),
]
NullOption = Annotated[
    bool, typer.Option("-0", "--null", help="Paths in lists end with NUL, as find -print0 writes them.")
]
RootOption = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Paths in lists and manifests, and ids, are relative to this folder."),
]
AudioColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column of .parquet inputs that has the audio; default: the only one that looks like audio.",
    ),
]


RetriesOption = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Times that a request to a URL is made again, if its connection breaks or its server is busy.",
    ),
]


class OnTruncated(str, Enum):
    """What the run does with a recording that was cut short or never finished."""

    fail = "fail"
    keep = "keep"


OnTruncatedOption = Annotated[
    OnTruncated, typer.Option(help="What to do at a recording that was cut short: fail it, or keep what is there.")
]
MaxFailuresOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Stop when more than N clips have failed.")
]


class OnError(str, Enum):
    """What the run does at a clip that cannot be used."""

    skip = "skip"
    stop = "stop"


OnErrorOption = Annotated[OnError, typer.Option(help="What to do at a clip that cannot be used.")]
RetryFailedOption = Annotated[bool, typer.Option("--retry-failed", help="Try clips again that failed in earlier runs.")]
UpdateOption = Annotated[
    bool, typer.Option("--update", help="Compute changed files again; take over changed metadata.")
]

# --- how to run ------------------------------------------------------------------------------------------------

DeviceOption = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", autocompletion=complete_device)
]
DevicesOption = Annotated[
    str,
    typer.Option(
        metavar="NAME,...",
        help="auto, cpu, cuda, cuda:N or mps; cuda:0,cuda:1 starts a process for each.",
        autocompletion=complete_device,
    ),
]
WorkersOption = Annotated[int, typer.Option(min=1, metavar="N", help="Threads that decode and, on a CPU, compute.")]


def parse_batch_seconds(text: str) -> Any:
    """A number of seconds, or "auto"."""
    with suppress(ValueError):
        if text == "auto" or 0.01 <= float(text) < math.inf:
            return text if text == "auto" else float(text)
    raise typer.BadParameter(f"expected auto, or seconds from 0.01, got {text!r}")


BatchSecondsOption = Annotated[
    Any,
    typer.Option(
        metavar="auto|SECONDS",
        parser=parse_batch_seconds,
        help="Audio in a batch on a GPU, with its padding; auto: what its memory allows.",
    ),
]
Tf32Option = Annotated[bool, typer.Option("--tf32", help="Let a GPU multiply in TF32: features differ by 0.001 or so.")]
PartOption = Annotated[
    str | None,
    typer.Option(metavar="I/N|auto[/N]", help="Do the I-th of N parts; auto: the part of a job's task."),
]


def parse_parts(text: str) -> Any:
    """A number of parts, or "auto"."""
    if text == "auto":
        return text
    if re.fullmatch(r"[0-9]{1,6}", text) and int(text):
        return int(text)
    raise typer.BadParameter(f"expected auto, or a whole number from 1, got {text!r}")


PartsOption = Annotated[
    Any,
    typer.Option(
        metavar="N|auto",
        parser=parse_parts,
        help="Divide the clips into N parts and do them all; auto: as many as FOLDER has.",
    ),
]


class On(str, Enum):
    """Whose workers do the parts."""

    ray = "ray"


OnOption = Annotated[
    On | None, typer.Option("--on", help="Have a Ray cluster do the parts, several at once (needs hlfeat[ray]).")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Remove what earlier runs wrote to FOLDER.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done; write nothing.")]
OverwriteFileOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]

# --- what to print ---------------------------------------------------------------------------------------------

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print more, and tracebacks of errors.")]


class ProgressMode(str, Enum):
    """How a run shows how far it is."""

    auto = "auto"
    bar = "bar"
    lines = "lines"
    json = "json"
    none = "none"


class LogFormat(str, Enum):
    """What lines of the log are."""

    text = "text"
    json = "json"


ProgressOption = Annotated[
    ProgressMode,
    typer.Option(help="A bar; a line, or an event in JSON, every 30 s; auto: a bar on a terminal, lines elsewhere."),
]
LogFormatOption = Annotated[LogFormat, typer.Option(help="Lines of the log: text, or JSON objects.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", parser=local_file, help="Write the figures as JSON too.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", parser=local_file, help="Draw them (needs hlfeat[plot]).")
]


# --- the end of a help -----------------------------------------------------------------------------------------


def epilog(examples: str, environment: str = "", exit_status: Mapping[Exit, str] = EXIT_STATUS) -> str:
    """The end of a command's help: exit status, environment and examples, in this order."""
    codes = "\n".join(f"{code.value:<3}  {exit_status[code]}" for code in sorted(exit_status))
    sections = {"Exit status": codes, "Environment": environment, "Examples": examples}
    return "\n\n".join(  # click wraps a paragraph unless \b precedes it
        f"\b\n{heading}:\n{indent(dedent(text).strip(), '  ')}" for heading, text in sections.items() if text
    )
