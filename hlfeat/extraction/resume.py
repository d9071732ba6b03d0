"""What earlier runs have left in an output directory: finished clips, and failures that stand or are tried again."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Stamp
from hlfeat.errors import UsageError
from hlfeat.extraction.failures import UNREACHABLE
from hlfeat.inputs.base import is_missing
from hlfeat.inputs.rows import BAD_ROW
from hlfeat.remote.urls import is_url
from hlfeat.storage.failure_record import FailureRecord
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import shard_number
from hlfeat.storage.output_dir import OutputDir
from hlfeat.text import count, escape_unprintable

log = logging.getLogger("hlfeat")
MISSING = "missing"  # the code of a clip whose file does not exist


@dataclass(frozen=True)
class ResumeState:
    """Where a run goes on.

    Attributes:
        todo: clips that are neither done nor failed for good.
        shards: the numbers of finished shards.
        entries, seconds: of the index of finished shards: how many, and how long the clips are together.
        sample_rates: how many of these have files of each rate (hertz).
        standing: failures that stand.
        retried: failures whose clips are tried again, by the clip's id.
        fills_gap: ids of clips with which a shard begins because a shard was removed that began with them.
    """

    todo: Sequence[Clip]
    shards: frozenset[int] = frozenset()
    entries: int = 0
    seconds: float = 0.0
    sample_rates: Mapping[int, int] = field(default_factory=dict)
    standing: Sequence[FailureRecord] = ()
    retried: Mapping[str, FailureRecord] | None = None
    fills_gap: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Request:
    """What a run is asked to do: its clips, their places by id, and the options that matter here.

    Attributes:
        each: whether every channel of a file is a clip of its own in the index.
        update: whether shards with a clip that has changed since are taken back, and metadata that has changed is
            written into their index.
        retry_failed: whether clips that failed are tried again.
        manifests: paths of the manifests that the clips are from.
    """

    clips: Sequence[Clip]
    order: Mapping[str, int]
    each: bool
    update: bool
    retry_failed: bool
    manifests: Sequence[str]

    def clip_id(self, entry: IndexEntry) -> str:
        """The id of the clip that an index entry is of."""
        return entry.id.rpartition("#")[0] if self.each else entry.id


@dataclass
class _Finished:
    """What the index of finished shards says.

    Attributes:
        done: whether a clip is in one, a byte for each clip.
        others: how many of its entries are of clips that are no input of this run.
        metadata: of clips whose metadata is another now, by shard and by the entry's id.
    """

    done: bytearray
    shards: set[int]
    entries: int = 0
    seconds: float = 0.0
    sample_rates: Counter[int] = field(default_factory=Counter)
    others: int = 0
    metadata: dict[int, dict[str, Mapping[str, Any]]] = field(default_factory=dict)


def scan_output(
    output: OutputDir,
    clips: Sequence[Clip],
    order: Mapping[str, int],
    *,
    each: bool,
    update: bool,
    retry_failed: bool,
    manifests: Sequence[str] = (),
) -> ResumeState:
    """What is done of these clips, whose places `order` has by id.

    Args:
        each: whether every channel of a file is a clip of its own in the index.
        update: whether shards with a clip that has changed since are taken back, and metadata that has changed is
            written into their index.
        retry_failed: whether clips that failed are tried again. Those that are missing or out of reach are in any case.
        manifests: paths of the manifests that the clips are from.

    Raises UsageError where another file has the name of a finished clip, or an update would lose a clip.
    """
    request = _Request(clips, order, each, update, retry_failed, [escape_unprintable(path) for path in manifests])
    finished = _scan_shards(output, request)
    standing, retried = _sort_failures(output, request, finished)
    failed = {failure.id for failure in standing}
    todo = [clip for clip, done in zip(clips, finished.done, strict=True) if not done and clip.id not in failed]
    shards = frozenset(finished.shards)
    fills_gap: frozenset[str] = frozenset()
    if shards != set(range(len(shards))):  # one is missing: it began after a clip that is done
        fills_gap = frozenset(c.id for before, c in zip(finished.done, clips[1:], strict=False) if before)
    return ResumeState(
        todo, shards, finished.entries, finished.seconds, finished.sample_rates, standing, retried, fills_gap
    )


def _scan_shards(output: OutputDir, request: _Request) -> _Finished:
    """Read the index of all finished shards; take back those that an update concerns."""
    finished = _Finished(bytearray(len(request.clips)), set())
    changed = clips_redone = 0
    redone: list[int] = []
    for number, entries in output.catalog.finished_shards():
        places = [request.order.get(request.clip_id(entry)) for entry in entries]
        known = [(place, entry) for place, entry in zip(places, entries, strict=True) if place is not None]
        changed_here = sum(_has_changed(output, request, request.clips[place], entry) for place, entry in known)
        changed += changed_here
        if changed_here and request.update:
            _check_nothing_lost(output, request, entries, places)
            redone.append(number)
            clips_redone += len(entries)
            continue
        finished.shards.add(number)
        metadata = {
            entry.id: meta
            for place, entry in known
            if (meta := request.clips[place].meta) and meta != (entry.meta or {})
        }
        if metadata:
            finished.metadata[number] = metadata
        finished.others += len(entries) - len(known)
        finished.entries += len(entries)
        finished.seconds += sum(entry.duration for entry in entries)
        finished.sample_rates.update(entry.sample_rate for entry in entries if entry.sample_rate is not None)
        for place, _ in known:
            finished.done[place] = 1
    for number in redone:  # now that none of them is refused
        output.catalog.take_back(number)
    if redone:
        log.info("%s changed since: %d in the same shards are computed again", count(changed, "clip"), clips_redone)
    elif changed:
        log.warning(
            "%s changed since; with the option update what changed is computed again", count(changed, "finished clip")
        )
    _take_over_metadata(output, request, finished)
    return finished


def _take_over_metadata(output: OutputDir, request: _Request, finished: _Finished) -> None:
    """Write metadata that a manifest has changed into the index, if this is an update; else say so."""
    changed = sum(map(len, finished.metadata.values()))
    if changed and request.update:
        for number, metadata in finished.metadata.items():
            output.catalog.replace_metadata(number, metadata)
        log.info("the metadata of %s has changed since: the index has it now", count(changed, "finished clip"))
    elif changed:
        log.warning(
            "the metadata of %s has changed since; with the option update the index takes it over",
            count(changed, "finished clip"),
        )


def _check_nothing_lost(
    output: OutputDir, request: _Request, entries: Sequence[IndexEntry], places: Sequence[int | None]
) -> None:
    """Raises UsageError for a shard with a clip that is not among the inputs, or whose metadata is not, or a pitch
    track that was edited, before it is taken back."""
    for entry, place in zip(entries, places, strict=True):
        if place is not None and entry.meta and not request.clips[place].meta:
            raise UsageError(
                f"update: {output.folder} would lose the metadata of {escape_unprintable(entry.id)}, which the inputs "
                "do not have: give the manifest that it is from"
            )
        if place is None:
            raise UsageError(
                f"update: {output.folder} would lose {escape_unprintable(entry.id)}, which shares a shard with a "
                "clip that has changed and is not among the inputs"
            )
    edited = output.catalog.edited_track(entries)
    if edited is not None:
        raise UsageError(
            f"update: {edited} was edited after it was written, and would be computed again: keep a copy elsewhere",
            remedy="overwrite",
        )


def _has_changed(output: OutputDir, request: _Request, clip: Clip, entry: IndexEntry) -> bool:
    """Whether a finished clip's file is not what it was. Raises UsageError if it is another clip."""
    segment = entry._replace(channel=None).segment if request.each else entry.segment
    if clip.segment != segment:
        whole = "the whole file"
        raise UsageError(
            f"{output.folder}: has the id {escape_unprintable(clip.id)} from {segment or whole}, not from "
            f"{clip.segment or whole}; choose another folder"
        )
    stamp = _stamp_of(clip)
    if stamp is None or stamp == (entry.size, entry.modified):
        return False
    if None in (stamp[1], entry.modified) and stamp[0] == entry.size:
        return False
    if clip.path != entry.path:
        raise UsageError(
            f"{output.folder}: has the id {escape_unprintable(clip.id)} from {escape_unprintable(entry.path)}, "
            f"not from {escape_unprintable(clip.path)}; choose another folder"
        )
    return True


def _stamp_of(clip: Clip) -> Stamp | None:
    """Size and modification time of a clip's file. None where it is gone, as its features are still those of the clip;
    and where it is at a URL of a list, which is not asked for."""
    if is_url(clip.path):
        return clip.listed if clip.span is None else clip.span.stamp
    try:
        info = os.stat(clip.path)
    except OSError:
        return None
    return info.st_size, info.st_mtime_ns


def _sort_failures(
    output: OutputDir, request: _Request, finished: _Finished
) -> tuple[list[FailureRecord], dict[str, FailureRecord]]:
    """Earlier failures that stand, and those whose clips are tried again.

    Failures beside finished shards stand, or all of them if no clip is left to do. What failed after the last finished
    shard is tried again with the clips around it. So are files that were missing and are there now, URLs that were
    missing (asking whether they are there costs as much), and those that were out of reach. With `retry_failed`,
    everything is.
    """
    archives = {clip.path for clip in request.clips if clip.span is not None or clip.row is not None}
    about_all = finished.entries > 0 and finished.others == 0  # all clips that are done are inputs of this run
    failures = [f for f in output.catalog.failures() if not _is_obsolete(f, request, finished, archives, about_all)]
    failed_inputs = sum(f.id in request.order for f in failures)
    complete = sum(finished.done) + failed_inputs == len(finished.done)
    standing: list[FailureRecord] = []
    retried: dict[str, FailureRecord] = {}
    for f in failures:
        stands = complete or shard_number(f.shard) in finished.shards
        # failures of clips that are no input of this run are not this run's to forget
        if f.id not in request.order or (stands and not request.retry_failed and not _may_be_there(f, request)):
            standing.append(f)
        else:
            retried[f.id] = f
    return standing, retried


def _may_be_there(failure: FailureRecord, request: _Request) -> bool:
    """Whether the file of an input was missing, and is not any more, or may not be."""
    if failure.code not in (MISSING, UNREACHABLE):
        return False
    clip = request.clips[request.order[failure.id]]
    return clip.fault is None and not is_missing(clip.path)


def _is_obsolete(
    failure: FailureRecord, request: _Request, finished: _Finished, archives: set[str], about_all: bool
) -> bool:
    """Whether the clip is done, or is no input any more: this run is about all that is in the folder, and not about
    it; or it is an archive or a table as a whole, of which only the members or rows are inputs now.

    A run over new clips only, which go into the folder of others, knows nothing of the others' failures: these stand,
    wherever their files seem to be from here. Only where failures are tried again they are forgotten if their file is
    gone, or their row of a manifest is another now.
    """
    if failure.id in request.order:
        return bool(finished.done[request.order[failure.id]])
    mended = request.retry_failed and (is_missing(failure.path) or _is_row_of(request.manifests, failure))
    return about_all or mended or (failure.path in archives and not failure.within)


def _is_row_of(manifests: Sequence[str], failure: FailureRecord) -> bool:
    """Whether a bad row of one of these manifests has failed. Its message begins with the path and the line."""
    starts = tuple(f"{path}{separator}" for path in manifests for separator in ":/")  # "/": a file in Kaldi's folder
    return failure.code == BAD_ROW and failure.message.startswith(starts)
