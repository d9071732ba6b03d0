"""Where clips end: features in shards or in statistics alone, clips that cannot be used among the failures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from hlfeat.errors import ClipError, TooManyFailuresError
from hlfeat.extraction.events import ChannelFeatures, ClipInfo, ComputedClip, FailedClip, FeatureChunk, HeldFeatures
from hlfeat.extraction.options import Options
from hlfeat.extraction.progress import Clock
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.statistics.moments_sum import MomentsSum
from hlfeat.statistics.shard_statistics import ShardStatistics
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.records import FailureRecord, IndexEntry
from hlfeat.storage.shard_writer import ShardWriter
from hlfeat.text import escape_unprintable

log = logging.getLogger("hlfeat")


class Failures:
    """Collects failures and stops the run where the options say so.

    Args:
        standing: failures of earlier runs that stand.
        retried: those whose clips are tried again, by the clip's id; each stands until its clip is done.
        options: `on_error` and `max_failures`.
        save: writes all failures.
    """

    def __init__(
        self,
        standing: Sequence[FailureRecord],
        retried: Mapping[str, FailureRecord],
        options: Options,
        save: Callable[[Sequence[FailureRecord]], None] = lambda records: None,
    ) -> None:
        self._records, self._retried = list(standing), dict(retried)
        self._options, self._save = options, save

    def add(self, failed: FailedClip, shard: str) -> None:
        """Record a clip that failed while this shard was open.

        Raises TooManyFailuresError where the run is to stop.
        """
        clip, error = failed.clip, failed.error
        before = self._retried.pop(clip.id, None)
        if before is not None:
            shard = before.shard  # so that resumed runs write identical bytes
        member = None if clip.span is None else clip.span.member
        self._records.append(FailureRecord(clip.id, clip.path, error.code, str(error), shard, member))
        log.warning("%s: %s: %s", clip, error.code, escape_unprintable(str(error)))
        most = self._options.max_failures
        if self._options.on_error == "stop":
            raise TooManyFailuresError(f"on_error: stopped at {clip}: {error.code}: {error}")
        if most is not None and len(self._records) > most:
            raise TooManyFailuresError(f"max_failures: more than {most} clips failed")

    def resolve(self, id_: str) -> None:
        """Note that a clip is done: an earlier failure of it does not stand any more."""
        self._retried.pop(id_, None)

    def save(self) -> None:
        """Write all failures, as they came."""
        self._save([*self._records, *self._retried.values()])

    def save_in_order(self, order: Mapping[str, int]) -> list[FailureRecord]:
        """Write all failures in the order of the clips, whose places `order` has by id. Returns them."""
        records = [*self._records, *self._retried.values()]
        records.sort(key=lambda record: order.get(record.id, len(order)))
        self._save(records)
        return records


class Sink(Protocol):
    """Takes the features of clips, in input order. As a context, it leaves nothing half-made."""

    @property
    def shard_name(self) -> str:
        """The name of the open shard, which failures are recorded with."""

    def write(self, clip: ComputedClip) -> None:
        """Take a clip. Raises ClipError where it fails on the way; the sink is then as it was before the clip."""

    def commit(self) -> Sequence[Path]:
        """Close the shard. Returns the paths of files that are complete now."""

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


class ShardSink:
    """Writes shards with their index and statistics.

    Args:
        output: the directory.
        format, dtype: of the shards.
        row_shape: of a row of the features.
        each: whether every channel of a file is a clip of its own in the index.
        taken: numbers of shards that are finished already.
        clock: counts the computing of long clips, which happens while they are written.
        failures: are saved before a shard is published: the clips that failed beside it must not be lost.
    """

    def __init__(
        self,
        output: OutputDir,
        format: str,
        dtype: np.dtype[Any],
        row_shape: tuple[int, ...],
        each: bool,
        taken: Set[int],
        clock: Clock,
        failures: Failures,
    ) -> None:
        self._output, self._format, self._dtype, self._row_shape = output, format, dtype, row_shape
        self._each, self._clock, self._failures = each, clock, failures
        self._numbers = (number for number in count() if number not in taken)
        self._number = next(self._numbers)  # of the open shard
        self._shard: ShardWriter | None = None
        self._statistics = ShardStatistics.of(*row_shape)
        self._open = ExitStack()  # closes the shard, whatever happens

    def __enter__(self) -> ShardSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def shard_name(self) -> str:
        return self._output.layout.shard_name(self._number)

    def write(self, clip: ComputedClip) -> None:
        shard = self._shard or self._begin()
        channels: list[tuple[str, Moments, bool]] = []
        for n, channel in enumerate(clip.channels):
            entry = index_entry(clip.info, n if self._each else None)
            features = _passing(channel, self._row_shape, self._clock)
            try:
                shard.append(entry, features, features.crc32)
            except ClipError:
                shard.drop(n)
                raise
            channels.append((entry.id, features.moments, channel.silent))
        for statistics in channels:
            self._statistics.add(*statistics)

    def _begin(self) -> ShardWriter:
        files = ShardFiles(self._output.layout, self._number)
        self._shard = self._open.enter_context(ShardWriter(files, self._format, self._dtype, *self._row_shape))
        self._statistics = ShardStatistics.of(*self._row_shape)
        return self._shard

    def commit(self) -> list[Path]:
        if self._shard is None or not self._shard.entries:
            return []
        self._output.check_place()
        self._failures.save()
        path = self._shard.commit(self._statistics.dump())
        self._open.close()
        self._shard = None
        self._number = next(self._numbers)
        return [path]


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
        start=clip.start,
        end=clip.end,
        channel=clip.channel if channel is None else channel,
        truncated=None if shortfall is None else True,
        seconds_promised=None if shortfall is None else shortfall.promised,
        seconds_there=None if shortfall is None else shortfall.there,
        decoder=info.decoder,
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
