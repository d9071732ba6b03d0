"""What computes features of clips, whatever the device: the protocol, and what its implementations share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hlfeat.errors import ClipError
from hlfeat.extraction.clip_loader import Cancelled, ClipLoader, SilenceWatch
from hlfeat.extraction.events import (
    ComputedClip,
    Event,
    FailedClip,
    FeatureChunk,
    HeldFeatures,
    LoadedClip,
)
from hlfeat.extraction.options import Limits
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import PoolMap
from hlfeat.extraction.streaming import MapInOrder, Step, Steps, stream_features
from hlfeat.extraction.worker_pool import Worker
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.statistics.moments import moments


class Engine(Worker, Protocol):
    """Features of clips on one device.

    What a Worker does, it does in the processes (or threads) of a pool; the rest in the thread of the run.
    """

    def compute(self, stream: Iterable[Event]) -> Iterator[Event]:
        """The stream with features for every LoadedClip that is not long, in the same order."""

    def compute_long(self, loaded: LoadedClip, pool: PoolMap, scratch: Path, cancelled: Cancelled) -> ComputedClip:
        """A long clip, which is read and computed while its features are iterated over.

        Args:
            pool: the workers.
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
    """Long clips, read and computed window by window: what the engines share."""

    extractor: Extractor
    postprocessor: PostProcessor
    loader: ClipLoader
    arrays: FeatureArrays
    limits: Limits

    @property
    def steps(self) -> Steps:
        return Steps(self.extractor, self.loader.resampler)

    def apply(self, step: str, *arguments: Any) -> Any:
        """A step by its name, in a worker."""
        return self.arrays.chunk(*arguments) if step == "chunk" else getattr(self.steps, step)(*arguments)

    def compute_long(
        self,
        loaded: LoadedClip,
        pool: PoolMap,
        map_windows: MapInOrder,
        map_chunks: MapInOrder,
        scratch: Path,
        cancelled: Cancelled,
    ) -> ComputedClip:
        """The clip with streamed features.

        Args:
            pool: reads the clip.
            map_windows: how a step is mapped over windows of the signal.
            map_chunks: how a step is mapped over the chunks of features.
        """

        def chunks(samples: Iterable[Tensor]) -> Iterator[FeatureChunk]:
            with torch.inference_mode():
                features = stream_features(
                    self.steps,
                    samples,
                    loaded.info.sample_rate,
                    map_windows,
                    lambda: SpillFile(scratch),
                    self.limits,
                )
                yield from map_chunks(Step("chunk", self.arrays.chunk), self.postprocessor(features))

        channels = [
            StreamedFeatures(SilenceWatch(pool.read(loaded.info, channel, cancelled)), chunks)
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
