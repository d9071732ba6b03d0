"""Which clips of a folder a report shows, and which it lists."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import ShardFiles


@dataclass(frozen=True)
class IndexedClip:
    """A clip of a shard.

    Attributes:
        meta: what a manifest says of it besides.
        drawn: whether it is to be drawn, or listed only.
    """

    shard: ShardFiles
    entry: IndexEntry
    meta: Mapping[str, Any]
    drawn: bool


def evenly_spaced(total: int, most: int) -> list[int]:
    """At most `most` numbers below `total`, evenly spaced, with the first and the last.

    >>> evenly_spaced(12, 5)
    [0, 3, 6, 8, 11]
    """
    n = min(most, total)
    places: list[int] = np.linspace(0, total - 1, n).round().astype(int).tolist() if n else []
    return places


def chosen_clips(
    folder: FeatureDir, damaged: set[str], clips: int, most_drawn: int, most_listed: int
) -> Iterator[IndexedClip]:
    """Some clips, in order: evenly spaced ones to be drawn, and the first ones.

    Args:
        damaged: names of shards that cannot be read.
        clips: how many there are in the others.
    """
    drawn = set(evenly_spaced(clips, most_drawn))
    place = 0
    for shard in folder.shards:
        if shard.name in damaged:
            continue
        with open(shard.index, "rb") as lines:
            for line in lines:
                if place in drawn or place < most_listed:
                    data = json.loads(line)
                    meta = data.get("meta")
                    entry = IndexEntry.from_line(data)
                    yield IndexedClip(shard, entry, meta if isinstance(meta, dict) else {}, place in drawn)
                place += 1
