"""hlfeat inspect: what feature directories hold, and whether they are intact."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.errors import EXIT_STATUS, Exit
from hlfeat.cli.options import VerboseOption, epilog
from hlfeat.cli.process import print_line, set_up_logging

if TYPE_CHECKING:
    from hlfeat.storage.feature_dir import FeatureDir


INSPECT_EPILOG = epilog(
    exit_status={
        **EXIT_STATUS,
        Exit.DONE: "intact, as far as it was read",
        Exit.FAILED: "something is damaged or does not match",
    },
    examples="""
        hlfeat inspect features
        hlfeat inspect features --verify
        hlfeat inspect train test --json
    """,
)


def inspect(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Folders of features.")],
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Read every shard again, and print mismatches.")] = False,
    bands: Annotated[bool, typer.Option("--bands", help="Print a line for every band, not for every channel.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures, a line of JSON for each folder.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Summarise and verify feature directories.

    Prints clips, hours, failures, statistics, durations and configuration. With --verify, every shard is read again
    and compared with its index: checksums, rows, ids, statistics, and values that are not finite. Each mismatch is
    printed on its own line.
    """
    set_up_logging(verbose)
    from hlfeat.inspection import summary
    from hlfeat.inspection.text import summary_lines
    from hlfeat.storage.feature_dir import FeatureDir

    intact = True
    for number, folder in enumerate(folders):
        if verify and _print_mismatches(FeatureDir(folder), as_json):
            intact = False
            continue
        facts = summary.inspect(folder)
        if as_json:
            print_line(json.dumps({**facts.as_dict(), **({"off": []} if verify else {})}))
            continue
        if number:
            print_line("")
        for line in summary_lines(facts, verify, bands):
            print_line(line)
    if not intact:
        raise typer.Exit(Exit.FAILED)


def _print_mismatches(folder: FeatureDir, as_json: bool) -> bool:
    """Verify a directory and print its mismatches. Returns whether there are any."""
    from tqdm import tqdm

    from hlfeat.inspection.verify import verify

    mismatches = []
    with tqdm(total=folder.size(), unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as bar:
        for line in verify(folder, lambda n: bar.update(n)):
            mismatches.append(line)
            if not as_json:
                print_line(line)
    if mismatches and as_json:
        print_line(json.dumps({"folder": str(folder.folder), "off": mismatches}))
    return bool(mismatches)
