"""Clips in finished shards: which are done, and, in an update, which shards are taken back as a clip has changed."""

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
from hlfeat.remote.urls import is_url
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.output_dir import OutputDir
from hlfeat.text import count, escape_unprintable

log = logging.getLogger("hlfeat")


@dataclass(frozen=True)
class Request:
    """What a run is asked to do.

    Attributes:
        clips: of the run.
        order: their places, by id.
        each: whether every channel of a file is a clip of its own in the index.
        update: whether shards with a clip that has changed since are taken back, and metadata that has changed is
            written into their index.
        retry_failed: whether clips that failed are tried again. Those that are missing or out of reach are in any case.
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
class Finished:
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


def scan_shards(output: OutputDir, request: Request) -> Finished:
    """Read the index of all finished shards; take back those that an update concerns.

    Raises UsageError where another file has the name of a finished clip, or an update would lose a clip.
    """
    finished = Finished(bytearray(len(request.clips)), set())
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


def _take_over_metadata(output: OutputDir, request: Request, finished: Finished) -> None:
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
    output: OutputDir, request: Request, entries: Sequence[IndexEntry], places: Sequence[int | None]
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


def _has_changed(output: OutputDir, request: Request, clip: Clip, entry: IndexEntry) -> bool:
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
