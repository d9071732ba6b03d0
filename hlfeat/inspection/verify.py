"""Whether a feature directory is what its own records say: everything is read again, one shard at a time."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.statistics.moments import moments, no_moments
from hlfeat.statistics.shard_statistics import ShardStatistics
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.formats import FeatureReader
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.records import FailureRecord, IndexEntry
from hlfeat.text import escape_unprintable

CLOSE = 1e-6  # of a standard deviation: two ways of summing differ by much less, other features by more


def verify(folder: FeatureDir, seen: Callable[[int], object] = lambda n: None) -> Iterator[str]:
    """What is off, a line each; nothing where all is well.

    Of every shard: its index, the sum and the rows of each clip, values that are not finite, its statistics. Of all
    together: each id is once in the indexes, or once among the failures.

    Args:
        seen: told after each clip how many bytes of features that was.
    """
    for shard in folder.shards:
        try:
            yield from _verify_shard(folder, shard, seen)
        except OutputError as e:
            yield str(e)
    try:
        for _ in folder.failures():
            pass
    except OutputError as e:
        yield str(e)
    yield from _repeated(folder)


def _verify_shard(folder: FeatureDir, shard: ShardFiles, seen: Callable[[int], object]) -> Iterator[str]:
    reader: FeatureReader | None = None
    found = ShardStatistics.of(*folder.shape)
    own: set[str] = set()
    row, whole = 0, True
    try:
        for number, entry in enumerate(folder.entries(shard), 1):
            own.add(entry.id)
            reader = reader or folder.open_shard(shard, entry.shard)
            if entry.shard != reader.path.name or entry.row != row or entry.frames < 1:
                place = f"{entry.frames} frames at row {entry.row} of {entry.shard!r}"
                yield f"{shard.index}: line {number}: expected rows from {row} of {reader.path.name}, got {place}"
                whole = False
            row = entry.row + entry.frames
            try:
                yield from _verify_clip(reader, entry, found)
            except OutputError as e:
                yield str(e)
                whole = False
            seen(entry.frames * reader.row_bytes)
        if reader is None:
            yield f"{shard.index}: there is no clip in it"
            return
        if reader.rows != row:
            yield f"{reader.path}: expected {row} rows as the index has, got {reader.rows}"
        if reader.ids is not None and set(reader.ids) - own:
            yield f"{reader.path}: has {escape_unprintable(min(set(reader.ids) - own))}, which is not in its index"
    finally:
        if reader is not None:
            reader.close()
    told = folder.stored_statistics(shard)
    if told is not None and whole:
        yield from (f"{shard.statistics}: {what}" for what in _different(told, found, own))


def _verify_clip(reader: FeatureReader, entry: IndexEntry, found: ShardStatistics) -> Iterator[str]:
    """What is off with a clip's features, which are counted in."""
    checksum, own, bad = 0, no_moments(*reader.row_shape), 0
    for piece in reader.read(entry):
        checksum = zlib.crc32(piece.data if piece.flags.c_contiguous else piece.tobytes(), checksum)
        finite = np.isfinite(piece)
        if not finite.all():
            bad += int(piece.size - np.count_nonzero(finite))
            piece = np.where(finite, piece, 0)  # counted once, and not again in every sum
        own += moments(piece)
    found.add(entry.id, own, False)
    name = f"{reader.path}: {escape_unprintable(entry.id)}"
    if checksum != entry.crc32:
        yield f"{name}: expected the sum crc32 {entry.crc32} as the index has, got {checksum}"
    if bad:
        yield f"{name}: has {bad} values that are not finite"


def _different(told: ShardStatistics, found: ShardStatistics, ids: set[str]) -> Iterator[str]:
    """In what statistics differ from those of the data."""
    a, b = told.moments, found.moments
    if (told.clips, a.frames) != (found.clips, b.frames):
        yield f"of {told.clips} clips and {a.frames} frames, the data has {found.clips} and {b.frames}"
        return
    deviation = np.sqrt(b.variance)
    size = np.maximum(abs(b.min), abs(b.max)) * np.finfo(np.float64).eps * math.sqrt(b.frames)
    if not ((a.min == b.min) & (a.max == b.max)).all():
        yield "min and max are not those of the data"
    if not (abs(a.mean - b.mean) <= CLOSE * deviation + size).all():
        yield "the mean is not that of the data"
    if not (abs(np.sqrt(a.variance) - deviation) <= CLOSE * deviation + size).all():
        yield "the variance is not that of the data"
    if told.constant != found.constant:
        yield f"names {len(told.constant)} clips that never change, the data has {len(found.constant)}"
    if set(told.silent) - ids:
        yield f"calls {escape_unprintable(min(set(told.silent) - ids))} silent, which is not in the index"


def _repeated(folder: FeatureDir) -> Iterator[str]:
    """Ids that are more than once in the indexes and among the failures.

    Those whose hashes are alone are alone: a million take 8 MB, and only the others are looked at again.
    """
    ordered = np.sort(np.fromiter((hash(id_) for _, id_ in _all_ids(folder)), np.int64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    places: dict[str, list[str]] = {}
    for file, id_ in _all_ids(folder):
        if hash(id_) in suspects:
            places.setdefault(id_, []).append(file)
    for id_, files in places.items():
        if len(files) > 1:
            told = ", ".join(dict.fromkeys(files))
            yield f"{folder.folder}: the id {escape_unprintable(id_)} is there {len(files)} times: in {told}"


def _all_ids(folder: FeatureDir) -> Iterator[tuple[str, str]]:
    """The files of all ids and these, as far as they can be read: what cannot has been told."""
    for shard in folder.shards:
        yield from ((shard.index.name, id_) for id_ in _readable(folder.entries(shard)))
    yield from (("the failures", id_) for id_ in _readable(folder.failures()))


def _readable(records: Iterable[IndexEntry | FailureRecord]) -> Iterator[str]:
    try:
        for record in records:
            yield record.id
    except OutputError:
        return
