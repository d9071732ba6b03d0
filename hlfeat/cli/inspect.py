"""hlfeat inspect: what feature directories hold, and whether they are intact."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlfeat.cli.checks import local_file, need_writable, refuse_own_file
from hlfeat.cli.errors import EXIT_STATUS, Exit
from hlfeat.cli.options import VerboseOption, epilog
from hlfeat.cli.process import print_line, print_path, set_up_logging

if TYPE_CHECKING:
    from hlfeat.storage.place import Place

CLIPS = 24  # on a page
INSPECT_EPILOG = epilog(
    exit_status={
        **EXIT_STATUS,
        Exit.DONE: "intact, as far as it was read",
        Exit.FAILED: "something is damaged or does not match",
    },
    examples="""
        hlfeat inspect features
        hlfeat inspect features --verify
        hlfeat inspect features --html report.html
        hlfeat inspect s3://bucket/train s3://bucket/test --json
    """,
)


def inspect(
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDER", help="Folders of features or pitch tracks; or their URLs.")
    ],
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything again, and print mismatches.")] = False,
    bands: Annotated[bool, typer.Option("--bands", help="Print a line for every band, not for every channel.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures, a line of JSON for each folder.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", parser=local_file, help="Write one page with pictures and players instead."
        ),
    ] = None,
    clips: Annotated[
        int | None, typer.Option("--clips", min=0, metavar="N", help="Clips with a picture on the page; default: 24.")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Summarise and verify feature directories.

    Prints clips, hours, failures, statistics, durations and configuration. With --verify, everything is read again and
    compared with the index: checksums, rows, ids, statistics, and values that are not finite. Each mismatch is printed
    on its own line. A damaged shard is named, and the others are summarised. Folders of pitch tracks are summarised and
    verified likewise. With --html, all of that is one file that opens in any browser, and standard output has its path.
    """
    set_up_logging(verbose)
    from hlfeat.errors import UsageError
    from hlfeat.storage.place import open_place

    if html is not None:
        if len(folders) != 1 or verify or bands or as_json:
            raise UsageError("--html: expected one folder, without --verify, --bands and --json")
        with open_place(folders[0]) as place:
            _write_page(place, html, CLIPS if clips is None else clips)
        return
    if clips is not None:
        raise UsageError("--clips: expected with --html only")
    intact = True
    for number, folder in enumerate(folders):
        with open_place(folder) as place:
            intact &= _print_place(place, verify, bands, as_json, first=not number)
    if not intact:
        raise typer.Exit(Exit.FAILED)


def _print_place(place: Place, verify: bool, bands: bool, as_json: bool, first: bool) -> bool:
    """Print what is in a directory, or its mismatches. Returns whether it is intact."""
    from hlfeat.errors import UsageError
    from hlfeat.storage.run_dir import RunDir

    tracks = RunDir(place).description.pitch is not None
    if tracks and bands:
        raise UsageError(f"--bands: {place} holds pitch tracks, which have no bands")
    if verify and _print_mismatches(place, tracks, as_json):
        return False
    facts, lines = _inspect_tracks(place, verify) if tracks else _inspect_features(place, verify, bands)
    if as_json:
        print_line(json.dumps({**facts, **({"off": []} if verify else {})}))
    else:
        if not first:
            print_line("")
        for line in lines:
            print_line(line)
    return not facts.get("damaged")


def _write_page(place: Place, out: Path, clips: int) -> None:
    """Write the page about a feature directory. Damage ends the command with Exit.FAILED."""
    from hlfeat.errors import OutputError
    from hlfeat.files import write_atomically
    from hlfeat.inspection.html_report import html_report
    from hlfeat.inspection.summary import inspect

    need_writable("--html", out)
    refuse_own_file("--html", out)
    found = inspect(place)
    page = html_report(found, clips)
    try:
        write_atomically(out, page)
    except OSError as e:
        raise OutputError(f"{out}: cannot be written: {e.strerror or e}") from e
    print_path(out)
    if found.damaged:
        raise typer.Exit(Exit.FAILED)


def _inspect_features(place: Place, verified: bool, bands: bool) -> tuple[dict[str, Any], Iterator[str]]:
    """The figures of a feature directory, and the lines that say them."""
    from hlfeat.inspection import summary
    from hlfeat.inspection.text import summary_lines

    facts = summary.inspect(place)
    return facts.as_dict(), summary_lines(facts, verified, bands)


def _inspect_tracks(place: Place, verified: bool) -> tuple[dict[str, Any], Iterator[str]]:
    """The same of a directory of pitch tracks."""
    from hlfeat.inspection.tracks import inspect_tracks

    facts = inspect_tracks(place)
    return facts.as_dict(), facts.lines(verified)


def _print_mismatches(place: Place, tracks: bool, as_json: bool) -> bool:
    """Verify a directory, of features or pitch tracks, and print its mismatches. Returns whether there are any."""
    from tqdm import tqdm

    from hlfeat.inspection.verify import verify, verify_tracks
    from hlfeat.storage.feature_dir import FeatureDir
    from hlfeat.storage.track_dir import TrackDir

    mismatches, bar = [], tqdm(unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty())
    with bar:
        if tracks:  # only the indexes say how many bytes there are, and they are read once
            lines = verify_tracks(TrackDir(place), bar.update)
        else:
            bar.reset((feature_dir := FeatureDir(place)).size())
            lines = verify(feature_dir, bar.update)
        for line in lines:
            mismatches.append(line)
            if not as_json:
                print_line(line)
    if mismatches and as_json:
        print_line(json.dumps({"folder": str(place), "off": mismatches}))
    return bool(mismatches)
