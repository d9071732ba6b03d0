"""What computes features of clips, whatever the device: the protocol, and what its implementations share."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
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
from hlfeat.extraction.streaming import ClipEdges, MapInOrder, Step, Steps, stream_features
from hlfeat.extraction.worker_pool import Worker
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.statistics.moments import moments
from hlfeat.text import duration

log = logging.getLogger("hlfeat")


class Engine(Worker, Protocol):
    """Features of clips on one device.

    What a Worker does, it does in the processes (or threads) of a pool; the rest in the thread of the run.
    """

    def compute(
        self, stream: Iterable[Event], pool: PoolMap, scratch: Path, cancelled: Cancelled
    ) -> Generator[Event, None, None]:
        """The stream with a ComputedClip in place of every LoadedClip, in the same order.

        The features of a long clip are computed while they are iterated over, which must be before the next event is
        asked for. Close the generator if it is not exhausted: what was begun ahead then ends.

        Args:
            pool: the workers.
            scratch: a folder for what does not fit into memory.
            cancelled: becomes true when the run should stop.
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
        self.check(bool(np.isfinite(y).all()), loudest)
        return y

    def check(self, finite: bool, loudest: Callable[[], float] | None = None) -> None:
        """Raises ClipError for features that are not finite, as `make` does."""
        if not finite:
            reason = "" if loudest is None else f": samples as large as {loudest():.3g}"
            raise ClipError("non-finite", f"features that {self.dtype.name} cannot hold{reason}")

    def chunk(self, features: Tensor) -> FeatureChunk:
        """The array and its moments."""
        y = self.make(features)
        return y, moments(y)


def hold(chunk: FeatureChunk, silent: bool) -> HeldFeatures:
    """Features with their checksum, which is computed here as the process that writes has enough to do."""
    return HeldFeatures(*chunk, silent, zlib.crc32(np.ascontiguousarray(chunk[0]).data))


def join_channels(
    loaded: LoadedClip, channels: Sequence[HeldFeatures | ClipError], seconds: Mapping[str, float]
) -> ComputedClip | FailedClip:
    """A clip of the features of its channels; it fails if one of them does. `seconds`: spent on computing."""
    seconds = {**loaded.seconds, **seconds}
    features = []
    for channel in channels:
        if isinstance(channel, ClipError):
            return FailedClip(loaded.info.clip, channel, loaded.info, seconds)
        features.append(channel)
    return ComputedClip(loaded.info, features, seconds)


def largest_sample(waveform: Tensor) -> Callable[[], float]:
    """Finds the largest magnitude when it is asked for."""
    return lambda: float(waveform.abs().max())


def same(chunks: Iterable[Tensor]) -> Iterable[Tensor]:
    """The chunks where they are."""
    return chunks


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
        reads: Sequence[Iterable[Tensor]],
        map_windows: MapInOrder,
        map_chunks: MapInOrder,
        scratch: Path,
        to_device: Callable[[Iterable[Tensor]], Iterable[Tensor]] = same,
        to_host: Callable[[Iterable[Tensor]], Iterable[Tensor]] = same,
    ) -> ComputedClip:
        """The clip with streamed features.

        Args:
            reads: the samples of each channel, and those around it, in blocks [1, t].
            map_windows: how a step is mapped over windows of the signal.
            map_chunks: how a step is mapped over the chunks of features.
            scratch: a folder for what does not fit into memory.
            to_device, to_host: bring samples to where they are computed, and features [n, C, F] back.
        """
        info, edges = loaded.info, self.loader.edges
        log.debug("%s: %s, computed in windows", info.clip, duration(info.duration))

        def chunks(samples: Iterable[Tensor]) -> Iterator[FeatureChunk]:
            with torch.inference_mode():
                features = stream_features(
                    self.steps,
                    to_device(samples),
                    info.sample_rate,
                    map_windows,
                    lambda: SpillFile(scratch),
                    self.limits,
                    ClipEdges(edges, info.margins, info.length),
                )
                yield from map_chunks(Step("chunk", self.arrays.chunk), self.postprocessor(to_host(features)))

        first = edges.samples_read(info.sample_rate, info.margins)
        channels = [StreamedFeatures(SilenceWatch(samples, first, info.samples), chunks) for samples in reads]
        return ComputedClip(info, channels, loaded.seconds)


class StreamedFeatures:
    """The features of one channel of a long clip; iterating over them reads and computes.

    Attributes:
        passed: is told how many samples each block has, at the file's rate, as it goes on to be computed.
    """

    def __init__(self, samples: SilenceWatch, compute: Callable[[Iterable[Tensor]], Iterator[FeatureChunk]]) -> None:
        self._samples, self._compute = samples, compute
        self.passed: Callable[[int], object] = lambda samples: None

    @property
    def silent(self) -> bool:
        return self._samples.silent

    def __iter__(self) -> Iterator[FeatureChunk]:
        return self._compute(self._passing())

    def _passing(self) -> Iterator[Tensor]:
        for block in self._samples:  # [1, t]
            self.passed(block.shape[-1])
            yield block
