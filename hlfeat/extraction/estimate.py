"""How much a run will write, before it begins: from the headers of some of its clips."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import Reader
from hlfeat.audio.table_fetcher import TableFetcher
from hlfeat.config.config import Config
from hlfeat.errors import ClipError
from hlfeat.extraction.product import Product
from hlfeat.extraction.setup import Pipeline
from hlfeat.partition import Part
from hlfeat.remote.fetch import with_copy
from hlfeat.remote.retries import Retries
from hlfeat.remote.tables import table_fetcher
from hlfeat.remote.urls import is_url
from hlfeat.storage.layout import own_files

MOST_HEADERS = 200
MOST_FETCHED = 16  # clips at URLs, which come whole
_LARGEST = 16 << 20  # bytes of one of them


@dataclass(frozen=True)
class Estimate:
    """About how much a run will write.

    Attributes:
        seconds: of audio, each channel that becomes a clip of its own counted.
        size: of what is made of it, in bytes.
        asked, opened, answered: clips whose header was looked at, those that could be opened, and of these those whose
            header says how long they are.
    """

    seconds: float
    size: int
    asked: int
    opened: int
    answered: int


def estimate(config: Config, product: Product, pipeline: Pipeline, clips: Sequence[Clip]) -> Estimate:
    """An estimate from the headers of at most MOST_HEADERS of the clips, evenly spaced; of MOST_FETCHED at URLs.

    A clip that cannot be opened counts as one that fails; one whose header does not say how long it is counts as the
    others.
    """
    asked = _fetched(_evenly_spaced(clips, MOST_HEADERS))
    n = len(asked)
    failed, seconds, rows = 0, [], []
    with closing(table_fetcher(Retries(1))) as tables:
        for clip in asked:
            header = _header(clip, config.audio.channels, tables)
            if header is None:
                failed += 1
                continue
            samples, rate, kept = header
            if samples is not None:
                frames = pipeline.extractor.num_frames(-(-samples * pipeline.extractor.sample_rate // rate))
                seconds.append(kept * samples / rate)
                rows.append(kept * pipeline.postprocessor.rows(frames))
    usable = len(clips) * (n - failed) / max(1, n) / max(1, len(seconds))  # clips for each that has answered
    row_bytes = product.row_bytes(config, pipeline)
    return Estimate(sum(seconds) * usable, round(sum(rows) * usable * row_bytes), n, n - failed, len(seconds))


def _evenly_spaced(clips: Sequence[Clip], most: int) -> list[Clip]:
    n = min(len(clips), most)
    return [clips[i * (len(clips) - 1) // max(1, n - 1)] for i in range(n)]


def _fetched(clips: Sequence[Clip]) -> list[Clip]:
    """The clips on this machine, and some of those at URLs, with their bytes; none that is known to be large."""
    there = [clip for clip in clips if not is_url(clip.path)]
    there += _evenly_spaced([clip for clip in clips if is_url(clip.path) and clip.row is not None], MOST_FETCHED)
    remote = (clip for clip in clips if is_url(clip.path) and clip.row is None)
    elsewhere = [clip for clip in remote if _listed_bytes(clip) <= _LARGEST]
    with ThreadPoolExecutor(MOST_FETCHED) as threads:
        return there + list(threads.map(_with_copy, _evenly_spaced(elsewhere, MOST_FETCHED)))


def _listed_bytes(clip: Clip) -> int:
    if clip.span is not None:
        return clip.span.size
    return 0 if clip.listed is None else clip.listed[0]


def _with_copy(clip: Clip) -> Clip:
    try:
        return with_copy(clip, Retries(1))
    except ClipError as e:
        return replace(clip, fault=(e.code, str(e)))


def _header(clip: Clip, channels: str | int, tables: TableFetcher) -> tuple[int | None, int, int] | None:
    """Samples, sample rate and channels that are kept, as a header says; None for a clip that cannot be opened. Of a
    row of a table, those of another row, which can be reached without reading all that is between."""
    try:
        if clip.fault is None and clip.row is not None:
            clip = tables.near(clip)
        with Reader(clip, channels) as reader:
            return reader.samples, reader.sample_rate, reader.kept
    except (ClipError, OSError):
        return None


def free_bytes(folder: Path) -> int | None:
    """What is free on the file system that a folder is on, or will be; None where the system does not say."""
    path = Path(os.path.abspath(folder))
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def written_bytes(folder: Path, parts: Sequence[Part] | None = None) -> int:
    """The size of the features that the runs of these parts, or any, have written already."""
    if not folder.is_dir():
        return 0
    shards = [path for path, name in own_files(folder) if name.kind == "shard" and (not parts or name.part in parts)]
    return sum(path.stat().st_size for path in shards if path.exists())
