"""Where clips end: features in shards, or in statistics alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from hlfeat.errors import ClipError
from hlfeat.extraction.clock import Clock
from hlfeat.extraction.events import ChannelFeatures, ClipInfo, ComputedClip, FeatureChunk, HeldFeatures
from hlfeat.extraction.failures import Failures
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.statistics.moments_sum import MomentsSum
from hlfeat.statistics.shard_statistics import ShardStatistics
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.shard_writer import ShardWriter

log = logging.getLogger("hlfeat")


class Sink(Protocol):
    """Takes the features of clips, in input order. As a context, it leaves nothing half-made."""

    @property
    def shard_name(self) -> str:
        """The name of the open shard, which failures are recorded with."""

    def write(self, clip: ComputedClip) -> None:
        """Take a clip. Raises ClipError where it fails on the way; the sink is then as it was before the clip."""

    def commit(self) -> Sequence[Path | str]:
        """Close the shard. Returns the paths, or URLs, of files that are complete now."""

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...


class _Summed:
    """Features that are computed on their way to the sink, and the moments of those that have passed."""

    def __init__(self, chunks: Iterable[FeatureChunk], row_shape: tuple[int, ...]) -> None:
        self._chunks, self.moments = chunks, no_moments(*row_shape)
        self.crc32 = None

    def __iter__(self) -> Iterator[np.ndarray]:
        for features, moments in self._chunks:
            self.moments += moments
            yield features


class _Held:
    """As _Summed, of features that are in memory."""

    def __init__(self, channel: HeldFeatures) -> None:
        self._features, self.moments, self.crc32 = channel.features, channel.moments, channel.crc32

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self._features,))


def _passing(channel: ChannelFeatures, row_shape: tuple[int, ...], clock: Clock) -> _Summed | _Held:
    """The features of one channel for a sink; the time that computing them takes is counted."""
    if isinstance(channel, HeldFeatures):
        return _Held(channel)
    return _Summed(clock.timed("compute", channel), row_shape)


@dataclass(frozen=True)
class SinkPlace:
    """Where a sink publishes its shards.

    Attributes:
        output: the directory.
        each: whether every channel of a file is a clip of its own in the index.
        taken: numbers of shards that are finished already.
        clock: counts the computing of long clips, which happens while they are written.
        failures: are saved before a shard is published: the clips that failed beside it must not be lost.
    """

    output: OutputDir
    each: bool
    taken: Set[int]
    clock: Clock
    failures: Failures


class NumberedSink:
    """What sinks share that publish one shard after the other. As a context, it leaves nothing half-made.

    Attributes:
        place: where they publish it.
    """

    def __init__(self, place: SinkPlace) -> None:
        self.place = place
        self._numbers = (number for number in count() if number not in place.taken)
        self._number = next(self._numbers)  # of the open shard
        self._open = ExitStack()  # closes the shard, whatever happens

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def shard_name(self) -> str:
        return self.place.output.layout.shard_name(self._number)

    @property
    def _files(self) -> ShardFiles:
        """Of the open shard."""
        return ShardFiles(self.place.output.layout, self._number)

    def _entries(self, clip: ComputedClip) -> Iterator[tuple[IndexEntry, ChannelFeatures]]:
        """The index line of each channel, and what was computed of it."""
        for n, channel in enumerate(clip.channels):
            yield index_entry(clip.info, n if self.place.each else None), channel

    def _before_publishing(self) -> None:
        self.place.output.check_place()
        self.place.failures.save()

    def _begin_next(self) -> None:
        """Close the shard, which is published."""
        self._open.close()
        self._number = next(self._numbers)


class ShardSink(NumberedSink):
    """Writes shards with their index and statistics; a Sink.

    Args:
        place: where.
        format, dtype: of the shards.
        row_shape: of a row of the features.
    """

    def __init__(self, place: SinkPlace, format: str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        super().__init__(place)
        self._format, self._dtype, self._row_shape = format, dtype, row_shape
        self._shard: ShardWriter | None = None
        self._statistics = ShardStatistics.of(*row_shape)

    def write(self, clip: ComputedClip) -> None:
        shard = self._shard or self._begin()
        channels: list[tuple[str, Moments, bool]] = []
        for entry, channel in self._entries(clip):
            features = _passing(channel, self._row_shape, self.place.clock)
            try:
                shard.append(entry, features, features.crc32)
            except ClipError:
                shard.drop(len(channels))
                raise
            channels.append((entry.id, features.moments, channel.silent))
        for statistics in channels:
            self._statistics.add(*statistics)

    def _begin(self) -> ShardWriter:
        files = self.place.output.files
        shard = ShardWriter(self._files, self._format, self._dtype, *self._row_shape, publisher=files)
        self._shard = self._open.enter_context(shard)
        self._statistics = ShardStatistics.of(*self._row_shape)
        return self._shard

    def commit(self) -> list[Path | str]:
        if self._shard is None or not self._shard.entries:
            return []
        self._before_publishing()
        path = self._shard.commit(self._statistics.dump())
        self._shard = None
        self._begin_next()
        return [self.place.output.place.shown(path)]


def index_entry(info: ClipInfo, channel: int | None) -> IndexEntry:
    """The index line of a clip, or of one channel of a file whose channels are clips of their own."""
    clip, shortfall = info.clip, info.shortfall
    return IndexEntry(
        id=clip.id if channel is None else f"{clip.id}#{channel}",
        path=clip.path,
        duration=info.duration,
        sample_rate=info.sample_rate,
        channels=info.file_channels,
        size=info.size,
        modified=info.modified,
        member=None if clip.span is None else clip.span.member,
        table_row=None if clip.row is None else clip.row.number,
        table_column=None if clip.row is None else clip.row.column,
        start=clip.start,
        end=clip.end,
        channel=clip.channel if channel is None else channel,
        truncated=None if shortfall is None else True,
        seconds_promised=None if shortfall is None else shortfall.promised,
        seconds_there=None if shortfall is None else shortfall.there,
        decoder=info.decoder,
        meta=dict(clip.meta) if clip.meta else None,
    )


class ShardMoments(NamedTuple):
    """The number of clips that a shard would hold, and the moments of their frames."""

    clips: int
    moments: Moments


class StatisticsSink:
    """Sums statistics and keeps no features.

    Sums are made for each shard that would have been written, so that the result is the same, to the last bit, as that
    of merging the statistics beside shards.

    Attributes:
        shards: those that are closed.
    """

    shard_name = ""

    def __init__(self, row_shape: tuple[int, ...], clock: Clock) -> None:
        self._row_shape, self._clock = row_shape, clock
        self._clips, self._sum = 0, MomentsSum(no_moments(*row_shape))  # of the open shard
        self.shards: list[ShardMoments] = []

    def __enter__(self) -> StatisticsSink:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, clip: ComputedClip) -> None:
        channels = [_passing(channel, self._row_shape, self._clock) for channel in clip.channels]
        for features in channels:
            for _ in features:
                pass
        for features in channels:  # now that none can fail any more
            self._clips += 1
            self._sum.add(features.moments)

    def commit(self) -> tuple[()]:
        if self._clips:
            self.shards.append(ShardMoments(self._clips, self._sum.total))
        self._clips, self._sum = 0, MomentsSum(no_moments(*self._row_shape))
        return ()
