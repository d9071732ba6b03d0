"""Ids of the clips of a run: no two clips may have the same, and a warning says which look the same."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hlfeat.audio.clip import Clip
from hlfeat.errors import UsageError
from hlfeat.text import escape_unprintable

log = logging.getLogger("hlfeat")


def with_distinct_ids(clips: list[Clip]) -> list[Clip]:
    """The clips of a run. Of rows that have the same path, also in several tables, none has it for its id."""
    times = Counter(clip.id for clip in clips if clip.row is not None)
    return [
        replace(clip, id=f"{clip.row.table}#{clip.row.number}") if clip.row is not None and times[clip.id] > 1 else clip
        for clip in clips
    ]


def refuse_duplicates(clips: Iterable[Clip]) -> dict[str, Clip]:
    """The clips by their ids. Raises UsageError for two of the same."""
    by_id: dict[str, Clip] = {}
    for clip in clips:
        first = by_id.setdefault(clip.id, clip)
        if first is not clip:
            raise UsageError(f"two clips with the id {escape_unprintable(clip.id)}: {_both(first, clip)}")
    return by_id


def warn_of_unicode_forms(by_id: Mapping[str, Clip]) -> None:
    """Say which ids look the same: macOS writes letters with accents as two characters (NFD), others as one (NFC)."""
    decomposed = [id_ for id_ in by_id if not id_.isascii() and not unicodedata.is_normalized("NFC", id_)]
    composed: dict[str, str] = {}
    alike = []
    for id_ in decomposed:
        form = unicodedata.normalize("NFC", id_)
        first = form if form in by_id else composed.setdefault(form, id_)
        if first != id_:
            alike.append((first, id_))
    if alike:
        first, second = (ascii(id_)[1:-1] for id_ in alike[0])
        names = "name differs" if len(alike) == 1 else "names differ"
        log.warning(
            "%d %s from another one in its Unicode form only, and stands for another clip: %s and %s",
            len(alike),
            names,
            first,
            second,
        )


def _both(first: Clip, second: Clip) -> str:
    if first.row is not None and second.row is not None and first.row == second.row and first.path == second.path:
        return f"{first} given twice"
    if first.path != second.path:
        return f"{first} and {second}; give the folder above them, or a list of paths"
    if first.source != second.source:
        return f"{first} twice, with different secrets, which ids leave out; a manifest can give each an id"
    if first.span == second.span or first.span is None or second.span is None:
        return f"{first} given twice"
    other = f"{escape_unprintable(second.name)} at byte {second.span.offset}"
    return f"{first} at byte {first.span.offset} and {other}"
