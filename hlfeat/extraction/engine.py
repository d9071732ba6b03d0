"""What computes features of clips, whatever the device: the protocol, and what its implementations share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError
from hlfeat.extraction.clip_loader import Cancelled, ClipLoader, SilenceWatch
from hlfeat.extraction.events import (
    ComputedClip,
    Event,
    FailedClip,
    FeatureChunk,
    HeldFeatures,
    LoadedClip,
    WorkerEvent,
)
from hlfeat.extraction.options import Limits
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import ThreadMap
from hlfeat.extraction.streaming import MapInOrder, stream_features
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.statistics.moments import moments


class Engine(Protocol):
    """Features of clips on one device.

    `start_worker` and `in_worker` run in the threads that read clips, the others in the thread of the run.
    """

    def start_worker(self) -> None:
        """Called in every worker thread first."""

    def in_worker(self, clips: list[Clip], cancelled: Cancelled) -> list[WorkerEvent]:
        """What a worker thread does with some clips: an event for each, in order."""

    def compute(self, stream: Iterable[Event]) -> Iterator[Event]:
        """The stream with features for every LoadedClip that is not long, in the same order."""

    def compute_long(self, loaded: LoadedClip, threads: ThreadMap, scratch: Path, cancelled: Cancelled) -> ComputedClip:
        """A long clip, which is read and computed while its features are iterated over.

        Args:
            threads: the worker threads.
            scratch: a folder for what does not fit into memory.
        """


@dataclass(frozen=True)
class FeatureArrays:
    """From features to arrays of the type that is written, checked for what it cannot hold."""

    dtype: np.dtype[Any]

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype.name)  # type: ignore[no-any-return]

    def make(self, features: Tensor, loudest: Callable[[], float] | None = None) -> np.ndarray:
        """Raises ClipError for features that are not finite; `loudest` gives the largest sample for the message."""
        y: np.ndarray = features.to(self.torch_dtype).cpu().contiguous().numpy()
        if not np.isfinite(y).all():
            reason = "" if loudest is None else f": samples as large as {loudest():.3g}"
            raise ClipError("non-finite", f"features that {self.dtype.name} cannot hold{reason}")
        return y

    def chunk(self, features: Tensor) -> FeatureChunk:
        """The array and its moments."""
        y = self.make(features)
        return y, moments(y)


def join_channels(
    loaded: LoadedClip, channels: Sequence[FeatureChunk | ClipError], seconds: Mapping[str, float]
) -> ComputedClip | FailedClip:
    """A clip of the features of its channels; it fails if one of them does. `seconds`: spent on computing."""
    seconds = {**loaded.seconds, **seconds}
    features = []
    for channel, silent in zip(channels, loaded.silent, strict=True):
        if isinstance(channel, ClipError):
            return FailedClip(loaded.info.clip, channel, loaded.info, seconds)
        features.append(HeldFeatures(*channel, silent))
    return ComputedClip(loaded.info, features, seconds)


def largest_sample(waveform: Tensor) -> Callable[[], float]:
    """Finds the largest magnitude when it is asked for."""
    return lambda: float(waveform.abs().max())


@dataclass(frozen=True)
class ClipStreamer:
    """Long clips, read and computed window by window: what the engines' `compute_long` share."""

    extractor: Extractor
    postprocessor: PostProcessor
    loader: ClipLoader
    arrays: FeatureArrays
    limits: Limits

    def __call__(
        self,
        loaded: LoadedClip,
        map_windows: MapInOrder,
        map_chunks: MapInOrder,
        scratch: Path,
        cancelled: Cancelled,
    ) -> ComputedClip:
        """The clip with streamed features.

        Args:
            map_windows: how a function is mapped over windows of the signal.
            map_chunks: how a function is mapped over the chunks of features.
        """

        def chunks(samples: Iterable[Tensor]) -> Iterator[FeatureChunk]:
            with torch.inference_mode():
                features = stream_features(
                    self.extractor,
                    samples,
                    loaded.info.sample_rate,
                    self.loader.resampler,
                    map_windows,
                    lambda: SpillFile(scratch),
                    self.limits,
                )
                yield from map_chunks(self.arrays.chunk, self.postprocessor(features))

        channels = [
            StreamedFeatures(SilenceWatch(self.loader.channel_chunks(loaded.info, channel, cancelled)), chunks)
            for channel in range(loaded.info.channels_out)
        ]
        return ComputedClip(loaded.info, channels, loaded.seconds)


class StreamedFeatures:
    """The features of one channel of a long clip; iterating over them reads and computes."""

    def __init__(self, samples: SilenceWatch, compute: Callable[[Iterable[Tensor]], Iterator[FeatureChunk]]) -> None:
        self._samples, self._compute = samples, compute

    @property
    def silent(self) -> bool:
        return self._samples.silent

    def __iter__(self) -> Iterator[FeatureChunk]:
        return self._compute(self._samples)
