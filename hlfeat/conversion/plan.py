"""Where the shards of a conversion end: known before the first is written, so that it can be continued."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hlfeat.config.output import shard_bytes
from hlfeat.conversion.source import Source
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.metadata import is_inexact, meta_of
from hlfeat.storage.shard_writer import ShardPlan

ShardKey = tuple[Part, int]

MOST = 2**63


class LargeInt(int):
    """An integer of 64 bits that float64 may round. A column of integers has it as it is."""


@dataclass
class Plan:
    """The shards of a conversion, and what else is known of all clips before they are read.

    Attributes:
        numbers: of the shards.
        clips: index lines of each shard, in order.
        kept: whether shards are those of the source.
        shard_of: for each shard of the source, that of the result which has its first clip.
        total, frames, seconds: of all clips.
        columns: names of metadata, and the types of their values.
    """

    kept: bool
    numbers: list[int] = field(default_factory=list)
    clips: list[int] = field(default_factory=list)
    shard_of: dict[ShardKey, int] = field(default_factory=dict)
    total: int = 0
    frames: int = 0
    seconds: float = 0.0
    columns: dict[str, set[type]] = field(default_factory=dict)

    def begin_shard(self, number: int) -> None:
        """Begin the next shard."""
        self.numbers.append(number)
        self.clips.append(0)

    def shard_of_failure(self, key: ShardKey | None) -> int:
        """The shard beside which a clip failed that failed beside this one of the source."""
        if key is None:
            return self.numbers[-1]
        if self.kept:
            return key[1]
        after = [shard for shard in self.shard_of if shard >= key]
        return self.shard_of[min(after)] if after else self.numbers[-1]

    def add_columns(self, meta: Mapping[str, Any]) -> None:
        """Note the names and types of a clip's metadata: integers are an `int`, a `LargeInt` or an `object`."""
        for name, value in meta.items():
            kind = type(value)
            if is_inexact(value):
                kind = LargeInt if -MOST <= value < MOST else object
            self.columns.setdefault(name, set()).add(kind)


@dataclass(frozen=True)
class Sizes:
    """How large shards are: at most so many clips or bytes; `row`: bytes of a row."""

    clips: int | None
    bytes: int | None
    row: int

    @classmethod
    def of(cls, size: int | str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> Sizes:
        """From a `shard_size` of the configuration."""
        row = math.prod(row_shape) * dtype.itemsize
        return cls(size, None, 1) if isinstance(size, int) else cls(None, shard_bytes(size), row)


def source_sizes(source: Source) -> Sizes:
    """How large the shards of the source are."""
    output: Mapping[str, Any] = source.description.config["output"]
    return Sizes.of(output["shard_size"], source.dtype, source.shape)


def make_plan(source: Source, sizes: Sizes) -> Plan:
    """Read all indexes. Shards stay where the sizes are the source's, and the source has no parts.

    Raises OutputError for an index that is damaged, and for a source that is not complete.
    """
    whole = all(shard.layout.part == WHOLE for shard in source.shards)
    plan = Plan(kept=whole and sizes == source_sizes(source))
    if plan.kept:
        for shard in source.shards:
            plan.begin_shard(shard.number)
            _add_shard(plan, source, shard)
    else:
        _fill(plan, source, ShardPlan(sizes.clips, sizes.bytes, sizes.row))
    source.check_complete(plan.total)
    return plan


def _add_shard(plan: Plan, source: Source, shard: ShardFiles) -> None:
    for entry, line in source.lines(shard):
        _count(plan, entry.frames, entry.duration, line)
        plan.clips[-1] += 1


class _Filling:
    """Puts groups of clips into shards, as a run does: the channels of a file stay in one."""

    def __init__(self, plan: Plan, shards: ShardPlan) -> None:
        self._plan, self._shards = plan, shards
        self._group: str | None = None
        self._clips = self._frames = 0  # of the open group: how many clips, and the frames of each
        self._keys: list[ShardKey] = []  # of the shards of the source that begin with the open group

    def add(self, group: str, frames: int, begins: ShardKey | None) -> None:
        """Add a clip, with which a shard of the source `begins`."""
        if group != self._group:
            self.end_group()
            self._group, self._frames = group, frames
        self._clips += 1
        if begins is not None:
            self._keys.append(begins)

    def end_group(self) -> None:
        """Put the open group into the open shard or a new one."""
        plan = self._plan
        if not self._clips:
            return
        if self._shards.opens(self._clips, self._frames):
            plan.begin_shard(plan.numbers[-1] + 1)
        plan.clips[-1] += self._clips
        plan.shard_of.update(dict.fromkeys(self._keys, plan.numbers[-1]))
        self._clips, self._keys = 0, []


def _fill(plan: Plan, source: Source, shards: ShardPlan) -> None:
    plan.begin_shard(0)
    filling = _Filling(plan, shards)
    for shard in source.shards:
        begins: ShardKey | None = (shard.layout.part, shard.number)
        for entry, line in source.lines(shard):
            _count(plan, entry.frames, entry.duration, line)
            filling.add(source.group(entry), entry.frames, begins)
            begins = None
    filling.end_group()


def _count(plan: Plan, frames: int, seconds: float, line: Mapping[str, Any]) -> None:
    plan.total += 1
    plan.frames += frames
    plan.seconds += seconds
    plan.add_columns(meta_of(line))
