"""Takes back what is damaged in a directory, so that the next run computes it again; nothing else is touched.

The checks are those of `verify`. A damaged shard is taken back as a whole, unless clips may be lost by that. Statistics
are made again from the features, and lines of failures that cannot be read are left out, so that their clips are tried
again. Each of these steps can be interrupted anywhere, and the same call goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hlfeat.errors import OutputError
from hlfeat.files import write_atomically
from hlfeat.inspection.at_risk import AtRisk, audio_seems_there
from hlfeat.inspection.rebuild import rebuilt_statistics
from hlfeat.inspection.verify import ShardCheck
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.catalog import ShardCatalog
from hlfeat.storage.description import has_its_fingerprint
from hlfeat.storage.failure_record import FailureRecord, salvage_failures
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.layout import Layout, ShardFiles, own_files
from hlfeat.storage.run_dir import RunDir
from hlfeat.storage.track_dir import TrackDir
from hlfeat.text import count, escape_unprintable

Progress = Callable[[int], object]
KEPT_WITHOUT_INDEX = "kept, as nothing tells whose it is: the next run removes it, as the option force does now"


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
        force: take shards back although some of their clips may be lost by that.
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
            statistics, unknown = rebuilt_statistics(folder, shard)
            but = f" (of {count(unknown, 'clip')} it is not known whether they are silent)" if unknown else ""
            write = partial(write_atomically, shard.statistics, statistics.dump())
            yield Fix(_summary(problems), f"made again from the features{but}", shard.layout.part, apply=write)
    yield from _orphans(folder, force)


def _repeated(shard: ShardFiles, ids: set[str], before: set[str]) -> list[str]:
    again = ids & before
    return [f"{shard.index}: the id {escape_unprintable(min(again))} is in another shard too"] if again else []


def _lost_statistics(shard: ShardFiles, written: bool) -> list[str]:
    return [f"{shard.statistics}: missing"] if written and not shard.statistics.exists() else []


def _take_back(folder: RunDir, shard: ShardFiles, problems: Sequence[str], force: bool) -> Fix:
    """The fix of a shard that is damaged: it is removed, unless clips may be lost by that."""
    problem, part, risk = _summary(problems), shard.layout.part, AtRisk.of(folder, shard)
    if risk.reason and not force:
        return Fix(problem, risk.reason, part)
    known = count(risk.clips, "clip") if risk.clips else "its clips"
    remedy = f"taken back: {known} to be computed again"
    return Fix(problem, remedy, part, risk.clips, partial(_remove, shard), runs_again=True)


def _remove(shard: ShardFiles) -> None:
    """Remove a shard, and the report of its part, which is done no more.

    The index goes last: it says what was in the shard. Features without it would be kept, if this was interrupted.
    """
    if shard.layout.part != WHOLE:
        shard.layout.report.unlink(missing_ok=True)
    for path in (*shard.data, shard.statistics):
        path.unlink(missing_ok=True)
    ShardCatalog(shard.layout).take_back(shard.number)


def _orphans(folder: FeatureDir, force: bool) -> Iterator[Fix]:
    """Features and statistics without an index: it was removed, or a run was stopped before it wrote it.

    Nothing tells whose the features are. They are removed if the audio of the other clips is there, or if that is asked
    for.
    """
    indexed = {(shard.layout.part, shard.number) for shard in folder.shards}
    lone = [
        (path, name)
        for path, name in sorted(own_files(folder.folder), key=lambda file: file[0].name)
        if name.kind in ("shard", "statistics") and not name.temporary and (name.part, name.number) not in indexed
    ]
    force = force or (bool(lone) and audio_seems_there(folder))
    kept: set[tuple[Part, int | None]] = set()
    for path, name in lone:  # features are first
        problem = f"{path}: has no index"
        if not force and ((name.kind == "shard" and path.stat().st_size) or (name.part, name.number) in kept):
            kept.add((name.part, name.number))
            yield Fix(problem, KEPT_WITHOUT_INDEX, name.part)
        else:
            remove = partial(path.unlink, missing_ok=True)
            yield Fix(problem, "removed", name.part, apply=remove, runs_again=True)


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
