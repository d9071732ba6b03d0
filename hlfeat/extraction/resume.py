"""What earlier runs have left in an output directory: finished clips, and failures that stand or are tried again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hlfeat.audio.clip import Clip
from hlfeat.errors import UsageError
from hlfeat.storage.layout import shard_place
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.records import Record
from hlfeat.text import count, escape_unprintable

log = logging.getLogger("hlfeat")


@dataclass
class ResumeState:
    """Where a run goes on.

    Attributes:
        done: whether a clip is in a finished shard, a byte for each clip.
        shards: the numbers of finished shards.
        entries, seconds: how many there are in them, and how long they are together.
        failures: those that stand.
        again: those that are still to be tried again, by the clip's id.
    """

    done: bytearray
    shards: set[int] = field(default_factory=set)
    entries: int = 0
    seconds: float = 0.0
    failures: list[Record] = field(default_factory=list)
    again: dict[str, Record] = field(default_factory=dict)

    @property
    def holes(self) -> bool:
        """Whether a shard is missing before the last finished one."""
        return self.shards != set(range(len(self.shards)))


def scan_output(
    output: OutputDir,
    clips: Sequence[Clip],
    order: Mapping[str, int],
    *,
    each: bool,
    update: bool,
    retry_failed: bool,
) -> ResumeState:
    """What is done of these clips, whose places `order` has by id.

    Args:
        each: whether every channel of a file is an entry of its own.
        update: whether shards with a clip that has changed since are taken back.
        retry_failed: whether clips that failed are tried again, and forgotten if they are gone and no input any more.

    Raises UsageError where another file has the name of a finished clip, or an update would lose a clip.
    """
    found = ResumeState(bytearray(len(clips)))
    changed = redone = 0
    for number, records in output.committed():
        ids = [r["id"].rpartition("#")[0] if each else r["id"] for r in records]
        known = [(clips[order[id_]], r) for id_, r in zip(ids, records, strict=True) if id_ in order]
        now = sum(_has_changed(output, clip, record, each) for clip, record in known)
        changed += now
        if now and update:
            if len(known) < len(records):
                other = next(r["id"] for id_, r in zip(ids, records, strict=True) if id_ not in order)
                raise UsageError(
                    f"update: {output.folder} would lose {escape_unprintable(other)}, which shares a shard with a "
                    "clip that has changed and is not among the inputs"
                )
            output.uncommit(number)
            redone += len(records)
            continue
        found.shards.add(number)
        found.entries += len(records)
        found.seconds += sum(r["duration"] for r in records)
        for clip, _ in known:
            found.done[order[clip.id]] = 1
    if redone:
        log.info("%s changed since: %d in the same shards are computed anew", count(changed, "clip"), redone)
    elif changed:
        log.warning("%d finished clips have changed since (update computes them anew)", changed)
    _sort_failures(found, output, clips, order, retry_failed)
    return found


def _has_changed(output: OutputDir, clip: Clip, record: Record, each: bool) -> bool:
    """Whether a finished clip's file is not what it was."""
    keys = ("member", "start", "end") if each else ("member", "start", "end", "channel")
    segment = {k: v for k, v in record.items() if k in keys}
    if clip.segment != segment:
        whole = "the whole file"
        raise UsageError(
            f"{output.folder}: has the id {escape_unprintable(clip.id)} from {segment or whole}, not from "
            f"{clip.segment or whole}; choose another folder"
        )
    try:
        info = os.stat(clip.path)
    except OSError:
        return False  # gone: its features are still those of the clip
    if (info.st_size, info.st_mtime_ns) == (record.get("size"), record.get("modified")):
        return False
    if clip.path != record["path"]:
        raise UsageError(
            f"{output.folder}: has the id {escape_unprintable(clip.id)} from {escape_unprintable(record['path'])}, "
            f"not from {escape_unprintable(clip.path)}; choose another folder"
        )
    return True


def _sort_failures(
    found: ResumeState, output: OutputDir, clips: Sequence[Clip], order: Mapping[str, int], retry_failed: bool
) -> None:
    """Failures beside finished shards stand, or all, if no clip is left to do.

    What failed after the last finished shard is tried again with the clips around it; with `retry_failed`, all is.
    """
    archives = {clip.path for clip in clips if clip.span is not None}

    def over(f: Record) -> bool:
        """Whether the clip is done, or no input any more and nothing to try again: a file that is gone, or an archive
        as a whole, whose members alone are inputs now."""
        if f["id"] in order:
            return bool(found.done[order[f["id"]]])
        gone = retry_failed and not os.path.lexists(f["path"])
        return gone or (f["path"] in archives and "member" not in f)

    failures = [f for f in output.failures() if not over(f)]
    among = sum(f["id"] in order for f in failures)
    complete = sum(found.done) + among == len(found.done)
    for f in failures:
        at = shard_place(f["shard"])
        stands = complete or (at is not None and at[1] in found.shards)
        # failures of clips that are no input of this run are not this run's to forget
        if f["id"] not in order or (stands and not retry_failed):
            found.failures.append(f)
        else:
            found.again[f["id"]] = f
