"""Engines that do a part of the work, so that it can be measured alone: reading, or all but the computing."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hlfeat.audio.clip import Clip
from hlfeat.extraction.clip_loader import Cancelled, ClipLoader
from hlfeat.extraction.engine import Engine
from hlfeat.extraction.events import (
    ClipInfo,
    ComputedClip,
    Event,
    FeatureChunk,
    HeldFeatures,
    LoadedClip,
    WorkerEvent,
)
from hlfeat.extraction.options import DEFAULT_LIMITS
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import PoolMap
from hlfeat.nn.extractor import Extractor
from hlfeat.statistics.moments import Moments, no_moments

ROWS_AT_ONCE = DEFAULT_LIMITS.window_samples // 160  # of a long clip


class ReadingEngine:
    """Reads clips and computes nothing; an Engine.

    Args:
        loader: reads clips.
        row_shape: of the features that there would be.
        resample: whether samples are resampled.
        hand_over: whether workers hand samples over, as they do where a device computes.
    """

    def __init__(self, loader: ClipLoader, row_shape: tuple[int, ...], resample: bool, hand_over: bool = True) -> None:
        self.loader, self._row_shape, self._resample, self._hand_over = loader, row_shape, resample, hand_over

    def start_worker(self) -> None:
        torch.set_num_threads(1)

    def in_worker(self, clips: list[Clip], cancelled: Cancelled) -> list[WorkerEvent]:
        events = self.loader.load_all(clips, cancelled, self._resample)
        return events if self._hand_over else [self._without_samples(event) for event in events]

    def _without_samples(self, event: WorkerEvent) -> WorkerEvent:
        if not isinstance(event, LoadedClip) or event.long:
            return event
        return ComputedClip(event.info, [self._nothing() for _ in event.waveforms], event.seconds)

    def compute(
        self, stream: Iterable[Event], pool: PoolMap, scratch: Path, cancelled: Cancelled
    ) -> Generator[Event, None, None]:
        for event in stream:
            long = isinstance(event, LoadedClip) and event.long
            yield self.compute_long(event, pool, cancelled) if long else event  # type: ignore[arg-type]

    def compute_long(self, loaded: LoadedClip, pool: PoolMap, cancelled: Cancelled) -> ComputedClip:
        """Read a long clip, and return none of it."""
        for channel in range(loaded.info.channels_out):
            self.read_all(loaded.info, channel, pool, cancelled)
        return ComputedClip(loaded.info, [self._nothing() for _ in range(loaded.info.channels_out)])

    def read_all(self, info: ClipInfo, channel: int, pool: PoolMap, cancelled: Cancelled) -> None:
        """Read one channel of a long clip. Raises ClipError."""
        for chunk in pool.read(info, channel, cancelled):
            if self._resample:
                self.loader.resampler(chunk, info.sample_rate)

    def apply(self, step: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def _nothing(self) -> HeldFeatures:
        return HeldFeatures(np.zeros((0, *self._row_shape)), no_moments(*self._row_shape), silent=False)


class ZerosEngine(ReadingEngine):
    """Reads clips, and returns zeros as their features; an Engine. What it takes is what a run takes but for computing.

    Args:
        extractor, postprocessor: say how many rows a clip has, and of which shape.
        loader: reads clips.
        dtype: of what is written.
    """

    def __init__(
        self, extractor: Extractor, postprocessor: PostProcessor, loader: ClipLoader, dtype: np.dtype[Any]
    ) -> None:
        super().__init__(loader, postprocessor.shape, resample=True)
        self._extractor, self._postprocessor, self._dtype = extractor, postprocessor, dtype

    def in_worker(self, clips: list[Clip], cancelled: Cancelled) -> list[WorkerEvent]:
        return [
            self._computed(event) if isinstance(event, LoadedClip) and not event.long else event
            for event in super().in_worker(clips, cancelled)
        ]

    def compute_long(self, loaded: LoadedClip, pool: PoolMap, cancelled: Cancelled) -> ComputedClip:
        channels = range(loaded.info.channels_out)
        return ComputedClip(loaded.info, [_Zeros(self, loaded.info, c, pool, cancelled) for c in channels])

    def rows(self, info: ClipInfo) -> int:
        """Of a channel of the clip."""
        return self._postprocessor.rows(self._extractor.num_frames(info.length))

    def zeros(self, rows: int, silent: bool = False) -> HeldFeatures:
        """So many rows, in memory of their own."""
        features, none = np.zeros((rows, *self._row_shape), self._dtype), np.zeros(self._row_shape)
        return HeldFeatures(features, Moments(rows, none, none, none, none), silent, zlib.crc32(features.data))

    def _computed(self, loaded: LoadedClip) -> ComputedClip:
        rows = self.rows(loaded.info)
        return ComputedClip(loaded.info, [self.zeros(rows, silent) for silent in loaded.silent], loaded.seconds)


class _Zeros:
    """The features of a channel of a long clip, which is read when they are iterated over."""

    silent = False

    def __init__(self, engine: ZerosEngine, info: ClipInfo, channel: int, pool: PoolMap, cancelled: Cancelled) -> None:
        self._engine, self._rows = engine, engine.rows(info)
        self._read = partial(engine.read_all, info, channel, pool, cancelled)

    def __iter__(self) -> Iterator[FeatureChunk]:
        self._read()
        for start in range(0, self._rows, ROWS_AT_ONCE):
            zeros = self._engine.zeros(min(ROWS_AT_ONCE, self._rows - start))
            yield zeros.features, zeros.moments


def make_zeros_engine(
    extractor: Extractor,
    postprocessor: PostProcessor,
    loader: ClipLoader,
    device: torch.device,
    dtype: np.dtype[Any],
    *_: object,
) -> Engine:
    """In place of `make_engine`, whose other arguments it does not need."""
    return ZerosEngine(extractor, postprocessor, loader, dtype)
