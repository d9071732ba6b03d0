"""From features of a batch to what is written of each clip, in threads beside the run.

As soon as a batch's download is done, a thread checks and post-processes its features and computes moments and
checksums, so that the thread of the run only takes what is finished, in order. A device with float64 has made the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from hlfeat.errors import ClipError
from hlfeat.extraction.device_queue import Wait
from hlfeat.extraction.engine import FeatureArrays, hold, largest_sample
from hlfeat.extraction.events import ClipInfo, HeldFeatures
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import map_ahead
from hlfeat.statistics.moments import from_sums, moments

X = TypeVar("X")
Y = TypeVar("Y")

THREADS = 4

Finished = HeldFeatures | ClipError


class Channel(NamedTuple):
    """One channel of a clip: its samples [T] as they were read, and whether the clip is silence."""

    waveform: Tensor
    silent: bool
    info: ClipInfo


def sums_of(y: Tensor, frames: Tensor) -> Tensor:
    """What `from_sums` takes, of each clip of a batch, in float64 on its device. What is not finite shows in the
    minimum or the maximum.

    Shape: y [B, N, C, F], frames [B] -> [B, 5, C, F].
    """
    beyond = torch.arange(y.shape[1], device=y.device) >= frames[:, None]
    beyond = beyond[:, :, None, None]  # [B, N, 1, 1]
    first = y[:, 0].double()
    d = (y - first[:, None]).masked_fill(beyond, 0)
    low, high = (y.masked_fill(beyond, s * torch.inf) for s in (1, -1))
    return torch.stack([first, d.sum(1), d.square().sum(1), low.amin(1).double(), high.amax(1).double()], 1)


@dataclass(frozen=True)
class ComputedBatch:
    """A batch on its way to the host.

    Attributes:
        channels: its rows.
        features: on the host, as they will be once `wait` has returned.
        sums: of `sums_of`, likewise; None: features are changed before they are written, or the device has no float64.
        frames: of each channel.

    Shape: features [B, N, C, F], sums [B, 5, C, F].
    """

    channels: Sequence[Channel]
    features: Tensor
    sums: Tensor | None
    frames: Sequence[int]
    wait: Wait


class Finisher:
    """Threads that finish batches. As a context, it ends them."""

    def __init__(self, arrays: FeatureArrays, postprocessor: PostProcessor, threads: int = THREADS) -> None:
        self._arrays, self._postprocessor, self._ahead = arrays, postprocessor, threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="finish")

    def __enter__(self) -> Finisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def begin(self, batch: ComputedBatch) -> list[Callable[[], Finished]]:
        """Finish a batch once it is on the host. Returns for each channel a function that waits for what is written."""
        results: Future[list[Finished]] = self._threads.submit(self._finish, batch)
        return [lambda i=i: results.result()[i] for i in range(len(batch.channels))]  # type: ignore[misc]

    def _finish(self, batch: ComputedBatch) -> list[Finished]:
        batch.wait()
        features = batch.features.numpy()
        clips = zip(batch.channels, (y[:n] for y, n in zip(features, batch.frames, strict=True)), strict=True)
        if batch.sums is None:
            return [self._finish_alone(channel, y) for channel, y in clips]
        sums = batch.sums.numpy()
        finite = np.isfinite(sums[:, -2:]).all((1, 2, 3))  # minimum and maximum
        return [
            self._finish_summed(channel, y, of_clip, fine)
            for (channel, y), of_clip, fine in zip(clips, sums, finite, strict=True)
        ]

    def _finish_alone(self, channel: Channel, y: np.ndarray) -> Finished:
        try:
            rows = self._postprocessor.whole(torch.from_numpy(y))
            array = self._arrays.make(rows, largest_sample(channel.waveform))
        except ClipError as error:
            return error
        return hold((array, moments(array)), channel.silent)

    def _finish_summed(self, channel: Channel, y: np.ndarray, sums: np.ndarray, finite: bool) -> Finished:
        try:
            self._arrays.check(bool(finite), largest_sample(channel.waveform))
        except ClipError as error:
            return error
        return hold((y, from_sums(len(y), *sums)), channel.silent)

    def map(self, function: Callable[[X], Y], items: Iterable[X]) -> Iterator[Y]:
        """The function of each item, in order, a few ahead."""
        return map_ahead(self._threads, function, items, self._ahead)
