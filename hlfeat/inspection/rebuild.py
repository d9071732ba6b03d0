"""The statistics of a shard, made again from its features, for where those beside it are damaged."""

from __future__ import annotations

import json
from functools import reduce
from operator import add

import numpy as np

from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import Reader
from hlfeat.errors import ClipError
from hlfeat.inspection.at_risk import audio_state
from hlfeat.statistics.moments import Moments, moments, no_moments
from hlfeat.statistics.shard_statistics import ShardStatistics
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.feature_format import FeatureReader
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import ShardFiles

WHOLE_BYTES = 16 << 20  # of a clip's features that are summed at once, as the run has done; of longer ones by piece


def rebuilt_statistics(folder: FeatureDir, shard: ShardFiles) -> tuple[ShardStatistics, int]:
    """Statistics of the features, with the clips that are silent; and of how many clips that is not known.

    Of clips of up to a minute they are those of the run, to the bit; of longer ones the last digits may differ, as the
    run has summed them in other pieces. Which clips are silent is read from the damaged file, where that is possible,
    or from the clips' audio, where it is there. Clips of which it is not known count as not silent.

    Raises OutputError where index or features are damaged.
    """
    entries = list(folder.entries(shard))
    silent = _recorded_silence(shard, {entry.id for entry in entries})
    channels = folder.description.config.get("audio", {}).get("channels", "mix")
    statistics = ShardStatistics.of(*folder.shape)
    unknown = 0
    reader = folder.open_shard(shard, entries[0].shard)
    try:
        for entry in entries:
            is_silent = _is_silent(entry, channels) if silent is None else entry.id in silent
            unknown += is_silent is None
            statistics.add(entry.id, _moments(reader, entry), bool(is_silent))
    finally:
        reader.close()
    return statistics, unknown


def _moments(reader: FeatureReader, entry: IndexEntry) -> Moments:
    pieces = reader.read(entry)
    if entry.frames * reader.row_bytes <= WHOLE_BYTES:
        return moments(np.concatenate(list(pieces)))
    return reduce(add, map(moments, pieces), no_moments(*reader.row_shape))


def _recorded_silence(shard: ShardFiles, ids: set[str]) -> set[str] | None:
    """The silent clips that a damaged file of statistics names; None where it cannot be read or names others."""
    try:
        silent = json.loads(shard.statistics.read_bytes())["silent"]
        return set(silent) if set(silent) <= ids else None
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None


def _is_silent(entry: IndexEntry, channels: str | int) -> bool | None:
    """Whether all samples of a clip are 0; None where they cannot be read any more. Reads on to the first sound."""
    if entry.within or audio_state(entry) != "there":
        return None
    try:
        with Reader(Clip(entry.id, entry.path, entry.start, entry.end, entry.channel), channels) as reader:
            return not any(block.any() for block in reader.blocks())
    except (ClipError, OSError):
        return None
