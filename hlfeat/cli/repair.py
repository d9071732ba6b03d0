"""hlfeat repair: takes damaged shards back, so that the next run computes them again."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.checks import local_folder
from hlfeat.cli.errors import EXIT_STATUS, Exit, in_terms_of_options
from hlfeat.cli.options import DryRunOption, VerboseOption, epilog
from hlfeat.cli.process import print_line, set_up_logging

if TYPE_CHECKING:
    from hlfeat.inspection.repair import Fix
    from hlfeat.partition import Part
    from hlfeat.storage.run_dir import RunDir

REPAIR_EPILOG = epilog(
    exit_status={
        **EXIT_STATUS,
        Exit.DONE: "nothing is damaged, or it was taken back (with --dry-run: can be)",
        Exit.FAILED: "something is damaged that cannot be taken back",
    },
    examples="""
        hlfeat repair features
        hlfeat repair features --dry-run
    """,
)


def repair(
    directory: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder of features or pitch tracks.")],
    *,
    dry_run: DryRunOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take shards back although some of their clips may be lost by that.")
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Take damaged shards back.

    Reads everything again as inspect --verify does. Damaged shards are removed, so that extract computes them again.
    Statistics are made again from the features. Prints what is damaged and what was done about it, and the command
    that computes what is missing. May be interrupted and run again.
    """
    set_up_logging(verbose)
    from tqdm import tqdm

    from hlfeat.inspection.repair import find_fixes
    from hlfeat.storage.layout import Layout
    from hlfeat.storage.lock import DirectoryLock
    from hlfeat.text import count

    folder = local_folder(directory)
    open_run_dir(folder)  # before the lock, which would make the folder
    applied: list[Fix] = []
    failed = False
    bar = tqdm(unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty())
    with ExitStack() as held:
        held.enter_context(bar)
        if not dry_run:
            held.callback(DirectoryLock(Layout(folder)).release)
        run_dir = open_run_dir(folder)
        for fix in find_fixes(run_dir, force, bar.update):
            print_line(in_terms_of_options(f"{fix.problem}: {fix.remedy}"))
            if fix.apply is None:
                failed = True
                continue
            if not dry_run:
                fix.apply()
            applied.append(fix)
    if dry_run and applied:
        print_line("nothing was changed")
    elif not applied and not failed:
        print_line(f"{folder}: nothing is damaged")
    if any(fix.runs_again for fix in applied):
        clips = sum(fix.clips for fix in applied)
        known = f"{count(clips, 'clip')} or more" if clips else "what is missing"
        print_line(f"to compute {known} again, run the same command as before:")
        for part in sorted({fix.part for fix in applied if fix.runs_again}):
            print_line(f"  {command_of(run_dir, part)}")
    if failed:
        raise typer.Exit(Exit.FAILED)


def open_run_dir(folder: Path) -> RunDir:
    """The directory, whatever it holds.

    Raises UsageError where it is none, and OutputError where its hlfeat.yaml is lost or damaged.
    """
    from hlfeat.errors import OutputError
    from hlfeat.storage.feature_dir import FeatureDir
    from hlfeat.storage.layout import Layout, own_files
    from hlfeat.storage.run_dir import RunDir
    from hlfeat.storage.track_dir import TrackDir

    lost = "it cannot be made again: extract into another folder, or get it from a copy"
    path = Layout(folder).description
    if folder.is_dir() and not path.exists() and any(name.kind == "index" for _, name in own_files(folder)):
        raise OutputError(f"{path}: missing: {lost}")
    try:
        tracks = RunDir(folder).description.pitch is not None
        return TrackDir(folder) if tracks else FeatureDir(folder)
    except OutputError as e:
        raise OutputError(f"{e}: {lost}") from e


def command_of(run_dir: RunDir, part: Part) -> str:
    """The command that goes on with a part of a run, or a conversion, as far as the folder tells it."""
    from hlfeat.partition import WHOLE

    converted = conversion_of(run_dir.folder)
    if converted:
        return shlex.join(converted)
    description = run_dir.description
    words = ["hlfeat", "extract" if description.pitch is None else "pitch", "INPUTS", "-o", str(run_dir.folder)]
    if description.pitch is not None and description.pitch.viterbi:
        words.append("--viterbi")
    for option, file in (("--weights", description.weights), ("--stats", description.stats)):
        words += [] if file is None else [option, file.path]
    return shlex.join([*words, *([] if part == WHOLE else ["--part", str(part)])])


def conversion_of(folder: Path) -> list[str]:
    """The command that has converted other features to this folder; empty where none has, or nothing tells which."""
    from hlfeat.storage.layout import Layout

    try:
        converted = json.loads(Layout(folder).report.read_bytes())["converted"]
        source, asked = converted["from"], converted["conversion"]
        of = [str(source), "-o", str(folder), "--format", str(asked["format"]), "--dtype", str(asked["dtype"])]
        return ["hlfeat", "convert", *of, "--shard-size", str(asked["shard_size"])]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return []
