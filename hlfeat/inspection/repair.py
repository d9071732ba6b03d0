"""Takes back what is damaged in a directory, so that the next run computes it again; nothing else is touched.

The checks are those of `verify`. A damaged shard is taken back as a whole, its index first. Statistics are made again
from the features, and lines of failures that cannot be read are left out, so that their clips are tried again. Each of
these steps can be interrupted anywhere, and the same call goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hlfeat.errors import OutputError
from hlfeat.files import write_atomically
from hlfeat.inspection.rebuild import rebuilt_statistics
from hlfeat.inspection.verify import ShardCheck
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.catalog import ShardCatalog
from hlfeat.storage.description import has_its_fingerprint
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.layout import Layout, ShardFiles, own_files
from hlfeat.storage.records import FailureRecord, IndexEntry, salvage_failures
from hlfeat.storage.run_dir import RunDir
from hlfeat.storage.track_dir import TrackDir
from hlfeat.text import count, escape_unprintable

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Fix:
    """Something that is damaged, and what can be done about it.

    Attributes:
        problem: what is wrong, with the path of the file.
        remedy: what is done, or why nothing can be.
        part: of the run that wrote the file.
        clips: that have to be computed again, as far as is known.
        apply: does it; None: it cannot be repaired.
        runs_again: whether a run of the part has to follow.
    """

    problem: str
    remedy: str
    part: Part = WHOLE
    clips: int = 0
    apply: Callable[[], None] | None = None
    runs_again: bool = False


def find_fixes(folder: RunDir, force: bool = False, progress: Progress = lambda n: None) -> Iterator[Fix]:
    """What is damaged in a directory. A fix may be applied before the next one is asked for.

    Args:
        folder: of features or pitch tracks.
        force: take shards back although the audio of some of their clips is not there.
        progress: called with the number of bytes that were read.
    """
    if has_its_fingerprint(folder.description) is False:
        path = Layout(folder.folder).description
        yield Fix(f"{path}: damaged: its settings are not those of its fingerprint", "it cannot be made again")
        return
    ids: set[str] = set()
    if isinstance(folder, FeatureDir):
        yield from _feature_fixes(folder, force, ids, progress)
    elif isinstance(folder, TrackDir):
        yield from _track_fixes(folder, force, ids, progress)
    yield from _failure_fixes(folder, ids)
    yield from _report_fixes(folder)


# --- shards ------------------------------------------------------------------------------------------------------


def _feature_fixes(folder: FeatureDir, force: bool, ids: set[str], progress: Progress) -> Iterator[Fix]:
    """Damaged shards and statistics; `ids` gets those of the clips that stay."""
    written = any(shard.statistics.exists() for shard in folder.shards)  # earlier versions wrote none
    for shard in folder.shards:
        check = ShardCheck(folder, shard)
        problems = list(check.data(progress)) or _repeated(shard, check.ids, ids)
        if problems:
            yield _take_back(folder, shard, problems, force)
            continue
        ids |= check.ids
        problems = list(check.statistics()) or _lost_statistics(shard, written)
        if problems:
            yield Fix(
                _summary(problems),
                "made again from the features",
                shard.layout.part,
                apply=partial(_rebuild, folder, shard),
            )
    yield from _orphans(folder)


def _repeated(shard: ShardFiles, ids: set[str], before: set[str]) -> list[str]:
    again = ids & before
    return [f"{shard.index}: the id {escape_unprintable(min(again))} is in another shard too"] if again else []


def _lost_statistics(shard: ShardFiles, written: bool) -> list[str]:
    return [f"{shard.statistics}: missing"] if written and not shard.statistics.exists() else []


def _take_back(folder: RunDir, shard: ShardFiles, problems: Sequence[str], force: bool) -> Fix:
    """The fix of a shard that is damaged: it is removed, unless clips would be lost by that."""
    problem, entries = _summary(problems), _readable_entries(folder, shard)
    lost = [entry for entry in entries if not os.path.lexists(entry.path)]
    if lost and not force:
        paths = escape_unprintable(lost[0].path) + (", ..." if len(lost) > 1 else "")
        return Fix(
            problem,
            f"kept, as the audio of {count(len(lost), 'clip')} is not there ({paths}): run this in the folder that the "
            "run was started in, or give those clips up with the option force",
            shard.layout.part,
        )
    known = count(len(entries), "clip") if entries else "its clips"
    return Fix(
        problem,
        f"taken back: {known} to be computed again",
        shard.layout.part,
        len(entries),
        partial(ShardCatalog(shard.layout).take_back, shard.number),
        runs_again=True,
    )


def _readable_entries(folder: RunDir, shard: ShardFiles) -> list[IndexEntry]:
    """The lines of an index up to the first that is damaged."""
    entries: list[IndexEntry] = []
    with suppress(OutputError):
        entries.extend(folder.entries(shard))
    return entries


def _rebuild(folder: FeatureDir, shard: ShardFiles) -> None:
    write_atomically(shard.statistics, rebuilt_statistics(folder, shard).dump())


def _orphans(folder: FeatureDir) -> Iterator[Fix]:
    """Features and statistics without an index: it was removed, or a run was stopped before it wrote it."""
    indexed = {(shard.layout.part, shard.number) for shard in folder.shards}
    for path, name in sorted(own_files(folder.folder), key=lambda file: file[0].name):
        lone = name.kind in ("shard", "statistics") and not name.temporary and (name.part, name.number) not in indexed
        if lone:
            remove = partial(path.unlink, missing_ok=True)
            yield Fix(f"{path}: has no index", "removed", name.part, apply=remove, runs_again=True)


def _track_fixes(folder: TrackDir, force: bool, ids: set[str], progress: Progress) -> Iterator[Fix]:
    """Lost pitch tracks, which are taken back with those of the same index.

    One that is there but differs may have been edited by hand, so it is never removed.
    """
    for shard in folder.shards:
        try:
            entries = list(folder.entries(shard))
        except OutputError as e:
            yield Fix(str(e), "its tracks cannot be told from other files", shard.layout.part)
            continue
        lost: list[str] = []
        changed: list[str] = []
        for entry in entries:
            mismatch = folder.mismatch(entry, progress)
            if mismatch is not None:
                (changed if os.path.lexists(folder.folder / entry.shard) else lost).append(mismatch)
        ids |= {entry.id for entry in entries}
        for mismatch in changed:
            yield Fix(mismatch, "kept, as it may have been edited: move it away to have it again", shard.layout.part)
        if lost and not changed:
            yield _take_back(folder, shard, lost, force)


# --- failures and reports ----------------------------------------------------------------------------------------


def _failure_fixes(folder: RunDir, ids: set[str]) -> Iterator[Fix]:
    """Damaged lines, and clips that failed twice or are done."""
    seen = set(ids)
    for part in folder.parts():
        path = Layout(folder.folder, part).failures
        if not path.exists():
            continue
        records, damaged = salvage_failures(path)
        kept: list[FailureRecord] = []
        for record in records:
            if record.id not in seen:
                seen.add(record.id)
                kept.append(record)
        wrong = damaged + len(records) - len(kept)
        if wrong:
            again = "left out: clips that are neither done nor failed are tried again"
            yield Fix(
                f"{path}: {count(wrong, 'line')} damaged or there twice",
                again,
                part,
                apply=partial(ShardCatalog(Layout(folder.folder, part)).write_failures, kept),
                runs_again=True,
            )
    if folder.parts() != [WHOLE]:  # that of all parts, which the last one writes
        path = Layout(folder.folder).failures
        if path.exists() and salvage_failures(path)[1]:
            yield _removed(path, WHOLE)


def _report_fixes(folder: RunDir) -> Iterator[Fix]:
    for part in dict.fromkeys([*folder.parts(), WHOLE]):
        path = Layout(folder.folder, part).report
        if path.exists() and not _is_report(path):
            yield _removed(path, part)


def _is_report(path: Path) -> bool:
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(report, dict) and {"clips", "failures"} <= set(report)


def _removed(path: Path, part: Part) -> Fix:
    remove = partial(path.unlink, missing_ok=True)
    return Fix(f"{path}: damaged", "removed: the next run writes it", part, apply=remove, runs_again=True)


def _summary(problems: Sequence[str]) -> str:
    return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
