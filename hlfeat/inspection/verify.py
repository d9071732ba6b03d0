"""Whether a feature directory is what its own records say: everything is read again, one shard at a time."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.statistics.moments import moments, no_moments
from hlfeat.statistics.shard_statistics import ShardStatistics
from hlfeat.storage.failure_record import FailureRecord
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.feature_format import FeatureReader
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.run_dir import RunDir
from hlfeat.storage.track_dir import TrackDir
from hlfeat.text import escape_unprintable

CLOSE = 1e-6  # of a standard deviation: two ways of summing differ by much less, other features by more


def verify(folder: FeatureDir, progress: Callable[[int], object] = lambda n: None) -> Iterator[str]:
    """Mismatches between the features and what is recorded of them, a line for each; nothing where all is well.

    Compared are, for every shard, its index, the checksum and the rows of each clip, and the statistics; values that
    are not finite are reported. Each id must be once in the indexes, or once among the failures.

    Args:
        progress: called after each clip with the number of bytes of its features.
    """
    return map(folder.place.named, _mismatches(folder, progress))


def _mismatches(folder: FeatureDir, progress: Callable[[int], object]) -> Iterator[str]:
    for shard in folder.shards:
        check = ShardCheck(folder, shard)
        yield from check.data(progress)
        yield from check.statistics()
    yield from _unreadable_failures(folder)
    yield from _repeated_ids(folder)


def verify_tracks(folder: TrackDir, progress: Callable[[int], object] = lambda n: None) -> Iterator[str]:
    """As `verify`: whether each pitch track has the frames and the checksum that the index says.

    Args:
        progress: called with the number of bytes that were read.
    """
    return map(folder.place.named, _track_mismatches(folder, progress))


def _track_mismatches(folder: TrackDir, progress: Callable[[int], object]) -> Iterator[str]:
    for shard in folder.shards:
        try:
            for entry in folder.entries(shard):
                mismatch = folder.mismatch(entry, progress)
                if mismatch is not None:
                    yield mismatch
        except OutputError as e:
            yield str(e)
    yield from _unreadable_failures(folder)
    yield from _repeated_ids(folder)


def _unreadable_failures(folder: RunDir) -> Iterator[str]:
    try:
        for _ in folder.failures():
            pass
    except OutputError as e:
        yield str(e)


class ShardCheck:
    """Reads one shard and computes its statistics anew: `data` first, then `statistics`.

    Attributes:
        ids: of the clips in its index, as far as it was read.
        readable: whether all clips could be read, so that their statistics can be compared.
    """

    def __init__(self, folder: FeatureDir, shard: ShardFiles) -> None:
        self.folder, self.shard = folder, shard
        self.computed = ShardStatistics.of(*folder.shape)
        self.ids: set[str] = set()
        self.row = 0  # where the next clip must begin
        self.readable = True

    def data(self, progress: Callable[[int], object] = lambda n: None) -> Iterator[str]:
        """Mismatches between index and features. `progress`: as of `verify`."""
        reader: FeatureReader | None = None
        try:
            for number, entry in enumerate(self.folder.entries(self.shard), 1):
                self.ids.add(entry.id)
                reader = reader or self.folder.open_shard(self.shard, entry.shard)
                yield from self._check_rows(reader, entry, number)
                try:
                    yield from self._check_clip(reader, entry)
                except OutputError as e:
                    yield str(e)
                    self.readable = False
                progress(entry.frames * reader.row_bytes)
            if reader is None:
                yield f"{self.shard.index}: there is no clip in it"
                self.readable = False
                return
            yield from self._check_end(reader)
        except OutputError as e:
            yield str(e)
            self.readable = False
        finally:
            if reader is not None:
                reader.close()

    def statistics(self) -> Iterator[str]:
        """Mismatches between the statistics beside the shard and those of its features; nothing if there are none."""
        if not self.readable:
            return
        try:
            stored = self.folder.stored_statistics(self.shard)
        except OutputError as e:
            yield str(e)
            return
        for mismatch in [] if stored is None else _compare_statistics(stored, self.computed, self.ids):
            yield f"{self.shard.statistics}: {mismatch}"

    def _check_rows(self, reader: FeatureReader, entry: IndexEntry, number: int) -> Iterator[str]:
        """Whether a clip is in the shard, right after the clip before it. `number`: of its index line."""
        if entry.shard != reader.path.name or entry.row != self.row or entry.frames < 1:
            place = f"{entry.frames} frames at row {entry.row} of {entry.shard!r}"
            yield f"{self.shard.index}: line {number}: expected rows from {self.row} of {reader.path.name}, got {place}"
            self.readable = False
        self.row = entry.row + entry.frames

    def _check_clip(self, reader: FeatureReader, entry: IndexEntry) -> Iterator[str]:
        """Checksum and values of a clip, which is added to the statistics."""
        checksum, clip, not_finite = 0, no_moments(*reader.row_shape), 0
        for piece in reader.read(entry):
            checksum = zlib.crc32(piece.data if piece.flags.c_contiguous else piece.tobytes(), checksum)
            finite = np.isfinite(piece)
            if not finite.all():
                not_finite += int(piece.size - np.count_nonzero(finite))
                piece = np.where(finite, piece, 0)  # reported once, and not by every comparison of statistics again
            clip += moments(piece)
        self.computed.add(entry.id, clip, silent=False)
        name = f"{reader.path}: {escape_unprintable(entry.id)}"
        if checksum != entry.crc32:
            yield f"{name}: expected the sum crc32 {entry.crc32} as the index has, got {checksum}"
        if not_finite:
            yield f"{name}: has {not_finite} values that are not finite"

    def _check_end(self, reader: FeatureReader) -> Iterator[str]:
        """Whether the shard has anything that its index does not list."""
        if reader.rows != self.row:
            yield f"{reader.path}: expected {self.row} rows as the index has, got {reader.rows}"
        extra = set(reader.ids or ()) - self.ids
        if extra:
            yield f"{reader.path}: has {escape_unprintable(min(extra))}, which is not in its index"


def _compare_statistics(stored: ShardStatistics, computed: ShardStatistics, ids: set[str]) -> Iterator[str]:
    """Mismatches between the statistics beside a shard and those of its data."""
    a, b = stored.moments, computed.moments
    if (stored.clips, a.frames) != (computed.clips, b.frames):
        yield f"of {stored.clips} clips and {a.frames} frames, the data has {computed.clips} and {b.frames}"
        return
    deviation = np.sqrt(b.variance)
    rounding = np.maximum(abs(b.min), abs(b.max)) * np.finfo(np.float64).eps * math.sqrt(b.frames)
    tolerance = CLOSE * deviation + rounding
    if not ((a.min == b.min) & (a.max == b.max)).all():
        yield "min and max are not those of the data"
    if not (abs(a.mean - b.mean) <= tolerance).all():
        yield "the mean is not that of the data"
    if not (abs(np.sqrt(a.variance) - deviation) <= tolerance).all():
        yield "the variance is not that of the data"
    if stored.constant != computed.constant:
        yield f"names {len(stored.constant)} clips that never change, the data has {len(computed.constant)}"
    unknown = set(stored.silent) - ids
    if unknown:
        yield f"calls {escape_unprintable(min(unknown))} silent, which is not in the index"


def _repeated_ids(folder: RunDir) -> Iterator[str]:
    """Ids that occur more than once in the indexes and among the failures.

    Ids are compared by their hashes first, of which a million take 8 MB; only those whose hash repeats are kept.
    """
    hashes = np.sort(np.fromiter((hash(id_) for _, id_ in _all_ids(folder)), np.int64))
    repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not repeated:
        return
    files_of: dict[str, list[str]] = {}
    for file, id_ in _all_ids(folder):
        if hash(id_) in repeated:
            files_of.setdefault(id_, []).append(file)
    for id_, files in files_of.items():
        if len(files) > 1:
            names = ", ".join(dict.fromkeys(files))
            yield f"{folder.folder}: the id {escape_unprintable(id_)} is there {len(files)} times: in {names}"


def _all_ids(folder: RunDir) -> Iterator[tuple[str, str]]:
    """All ids, with the file that each is in; a file that is damaged ends early, and has been reported."""
    for shard in folder.shards:
        yield from ((shard.index.name, id_) for id_ in _readable_ids(folder.entries(shard)))
    yield from (("the failures", id_) for id_ in _readable_ids(folder.failures()))


def _readable_ids(records: Iterable[IndexEntry | FailureRecord]) -> Iterator[str]:
    try:
        for record in records:
            yield record.id
    except OutputError:
        return
