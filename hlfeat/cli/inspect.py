"""hlfeat inspect: what is in feature directories, and whether it is what they say."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.exit_codes import Exit
from hlfeat.cli.log import set_up_logging
from hlfeat.cli.options import VerboseOption, epilog

if TYPE_CHECKING:
    from hlfeat.storage.feature_dir import FeatureDir


INSPECT_EPILOG = epilog(
    examples="""
        hlfeat inspect features
        hlfeat inspect features --verify
        hlfeat inspect train test --json
    """
)


def inspect(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Folders of features.")],
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything again and say what is off.")] = False,
    bands: Annotated[bool, typer.Option("--bands", help="A line for every band, not for every channel.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All figures, as a line of JSON for each folder.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """What is in folders of features: clips, hours, failures, statistics, durations, configuration.

    --verify reads every shard again: sums, rows, ids, statistics, values that are not finite. Each thing that is off
    is a line.

    Exit status: 0 all is well, 1 something is damaged or off, 2 usage.
    """
    set_up_logging(verbose, quiet=False)
    from hlfeat.inspection.summary import inspect as look
    from hlfeat.inspection.text import summary_lines
    from hlfeat.storage.feature_dir import FeatureDir

    all_well = True
    for number, out in enumerate(outs):
        if verify:
            off = _verify(FeatureDir(out), as_json)
            if off:
                all_well = False
                continue
        found = look(out)
        if as_json:
            _print(json.dumps({**found.as_dict(), **({"off": []} if verify else {})}))
            continue
        if number:
            _print("")
        for line in summary_lines(found, verify, bands):
            _print(line)
    if not all_well:
        raise typer.Exit(Exit.FAILED)


def _verify(folder: FeatureDir, as_json: bool) -> bool:
    """Whether anything is off, which is printed."""
    from tqdm import tqdm

    from hlfeat.inspection.verify import verify

    off = []
    with tqdm(total=folder.size(), unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as bar:
        for line in verify(folder, lambda n: bar.update(n)):
            off.append(line)
            if not as_json:
                with tqdm.external_write_mode(file=sys.stdout):
                    _print(line)
    if off and as_json:
        _print(json.dumps({"folder": str(folder.folder), "off": off}))
    return bool(off)


def _print(line: str) -> None:
    """A line on standard output; a reader that has gone away (| head) has seen enough."""
    try:
        sys.stdout.buffer.write(f"{line}\n".encode(sys.stdout.encoding, "backslashreplace"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
