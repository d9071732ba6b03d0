"""Features computed in large batches on a device of its own.

Batches are planned by the clips' lengths, in blocks that no shard's end cuts through. The next block is on its way
while the last one is written.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError
from hlfeat.extraction.batching import pad, plan_batches
from hlfeat.extraction.clip_loader import Cancelled, ClipLoader
from hlfeat.extraction.engine import ClipStreamer, FeatureArrays, join_channels, largest_sample
from hlfeat.extraction.events import ComputedClip, Event, FeatureChunk, LoadedClip, ShardBreak, WorkerEvent
from hlfeat.extraction.options import Limits
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import PoolMap
from hlfeat.extraction.streaming import Step
from hlfeat.nn.device import out_of_memory
from hlfeat.nn.extractor import Extractor
from hlfeat.statistics.moments import from_sums, moments

log = logging.getLogger("hlfeat")

Y = TypeVar("Y")
Made = tuple[Tensor, Tensor]  # features of a clip [n, C, F] and their sums [5, C, F]


@dataclass
class _Block:
    """Events, in order, whose features are computed together.

    Attributes:
        samples: of the clips, all channels together.
        features: of clips that were launched, by the clip's place among the events and the channel.
        wait: returns when the device has computed them.
        seconds: that the host spent on launching and waiting.
    """

    events: deque[Event] = field(default_factory=deque)
    samples: int = 0
    features: dict[tuple[int, int], Made | ClipError] = field(default_factory=dict)
    wait: Callable[[], None] = lambda: None
    seconds: float = 0.0

    def add(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, LoadedClip):
            self.samples += event.info.length * event.info.channels_out


class BatchEngine:
    """Computes in batches, resampling included; an Engine.

    Args:
        extractor: in eval mode, on the device.
        postprocessor: what is done to features before they are written.
        loader: reads clips.
        device: where the extractor is.
        dtype: of what is written.
        batch_samples: of a batch after resampling, padding included.
        cancelled: becomes true when the run should stop.
        limits: how much is computed at once.
    """

    def __init__(
        self,
        extractor: Extractor,
        postprocessor: PostProcessor,
        loader: ClipLoader,
        device: torch.device,
        dtype: np.dtype[Any],
        batch_samples: int,
        cancelled: Cancelled,
        limits: Limits,
    ) -> None:
        self._extractor, self._postprocessor, self.loader, self._device = extractor, postprocessor, loader, device
        self._batch_samples, self._cancelled, self._limits = batch_samples, cancelled, limits
        self._arrays = FeatureArrays(dtype)
        self._streamer = ClipStreamer(extractor, postprocessor, loader, self._arrays, limits)
        self.apply = self._streamer.apply

    def start_worker(self) -> None:
        pass

    def in_worker(self, clips: list[Clip], cancelled: Cancelled) -> list[WorkerEvent]:
        """Read the clips."""
        return self.loader.load_all(clips, cancelled, resample=False)

    def compute(self, stream: Iterable[Event]) -> Iterator[Event]:
        """Blocks of clips, of which one is computed while the one before it is written."""
        most = self._limits.block_batches * self._batch_samples
        block, launched = _Block(), _Block()
        for event in stream:
            long = isinstance(event, LoadedClip) and event.long
            if not long and not isinstance(event, ShardBreak):
                block.add(event)
                if block.samples < most:
                    continue
            self._launch(block)
            yield from self._collect(launched)
            block, launched = _Block(), block
            if isinstance(event, ShardBreak):
                block.add(event)
            elif long:  # it has the device to itself
                yield from self._collect(launched)
                launched = _Block()
                yield event
        self._launch(block)
        yield from self._collect(launched)
        yield from self._collect(block)

    def compute_long(self, loaded: LoadedClip, pool: PoolMap, scratch: Path, cancelled: Cancelled) -> ComputedClip:
        return self._streamer.compute_long(loaded, pool, self._map_windows, map, scratch, cancelled)

    def _launch(self, block: _Block) -> None:
        """Give the device the block's work; clips of one rate and of similar length make a batch."""
        start = time.perf_counter()
        by_rate: dict[int, list[tuple[tuple[int, int], int, Tensor]]] = {}  # place, length, waveform
        for i, event in enumerate(block.events):
            if isinstance(event, LoadedClip):
                channels = by_rate.setdefault(event.info.sample_rate, [])
                channels.extend(((i, c), event.info.length, w) for c, w in enumerate(event.waveforms))
        for rate, channels in by_rate.items():
            for batch in plan_batches([length for _, length, _ in channels], self._batch_samples):
                if self._cancelled():
                    break
                features = self._compute([channels[j][2] for j in batch], rate)
                block.features.update((channels[j][0], y) for j, y in zip(batch, features, strict=True))
        if self._device.type == "cuda":
            event_done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event_done.record()
            block.wait = event_done.synchronize
        block.seconds += time.perf_counter() - start

    def _collect(self, block: _Block) -> Iterator[Event]:
        """The block's events, with features once the device is done with them."""
        start = time.perf_counter()
        block.wait()
        seconds = {"compute": block.seconds + time.perf_counter() - start}  # of all, counted with the first
        for i in range(len(block.events)):
            event = block.events.popleft()
            if isinstance(event, LoadedClip):
                channels = [self._finish(block.features.get((i, c)), w) for c, w in enumerate(event.waveforms)]
                event, seconds = join_channels(event, channels, seconds), {}
            yield event

    def _finish(self, features: Made | ClipError | None, waveform: Tensor) -> FeatureChunk | ClipError:
        """What is written of one channel of a clip."""
        if features is None:
            return ClipError("cancelled", "the run was stopped")
        if isinstance(features, ClipError):
            return features
        y, sums = features
        try:
            array = self._arrays.make(self._postprocessor.whole(y), largest_sample(waveform))
        except ClipError as error:
            return error
        changed = self._postprocessor.changes
        return array, moments(array) if changed else from_sums(len(array), *sums.numpy())

    def _compute(self, waveforms: Sequence[Tensor], rate: int) -> list[Made | ClipError]:
        """Features of each clip of a batch; where memory does not suffice, in halves."""
        try:
            return list(self._forward(waveforms, rate))
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        if len(waveforms) == 1:
            return [ClipError("out-of-memory", f"too long for the memory of {self._device}")]
        log.info("out of memory with a batch of %d clips: going on with halves", len(waveforms))
        half = len(waveforms) // 2
        return self._compute(waveforms[:half], rate) + self._compute(waveforms[half:], rate)

    def _forward(self, waveforms: Sequence[Tensor], rate: int) -> list[Made]:
        x, lengths = pad(waveforms)
        old, new, _ = self.loader.resampler.ratio(rate)
        lengths = -(-lengths * new // old)
        frames = self._extractor.num_frames(lengths)
        on_cuda = self._device.type == "cuda"
        with torch.inference_mode():
            if on_cuda:
                x, lengths = x.pin_memory(), lengths.pin_memory()
            x, lengths = x.to(self._device, non_blocking=on_cuda), lengths.to(self._device, non_blocking=on_cuda)
            y = self._extractor(self.loader.resampler(x, rate), lengths).permute(0, 3, 1, 2)  # [B, N, C, F]
            y = (y if self._postprocessor.changes else y.to(self._arrays.torch_dtype)).contiguous()
            sums = self._sums(y, frames.pin_memory() if on_cuda else frames)
            if on_cuda:  # copies that the host does not wait for, until the block is collected
                y, sums = (torch.empty(a.shape, dtype=a.dtype, pin_memory=True).copy_(a, non_blocking=True)
                           for a in (y, sums))  # fmt: skip
            y, sums = y.cpu(), sums.cpu()
        return [(clip[:n], clip_sums) for clip, clip_sums, n in zip(y, sums, frames.tolist(), strict=True)]

    def _sums(self, y: Tensor, frames: Tensor) -> Tensor:
        """What `from_sums` takes, of each clip of a batch, made on the device: the host has enough to write.

        Shape: y [B, N, C, F], frames [B] -> float64 [B, 5, C, F].
        """
        if y.device.type == "mps":  # which has no float64
            y = y.cpu()
        beyond = torch.arange(y.shape[1], device=y.device) >= frames.to(y.device, non_blocking=True)[:, None]
        beyond = beyond[:, :, None, None]  # [B, N, 1, 1]
        first = y[:, 0].double()
        d = (y - first[:, None]).masked_fill(beyond, 0)
        low, high = (y.masked_fill(beyond, s * torch.inf) for s in (1, -1))
        return torch.stack([first, d.sum(1), d.square().sum(1), low.amin(1).double(), high.amax(1).double()], 1)

    def _map_windows(self, step: Step[Y], items: Iterable[Tensor]) -> Iterator[Y]:
        """A step over a long clip's windows on the device, as many of one size at once as make a batch."""
        most = max(1, self._batch_samples // self._limits.window_samples)
        group: list[Tensor] = []
        for item in items:
            if group and (len(group) >= most or group[0].shape != item.shape):
                yield from self._apply(step, group)
                group = []
            group.append(item)
        if group:
            yield from self._apply(step, group)

    def _apply(self, step: Step[Y], group: list[Tensor]) -> Iterator[Y]:
        results: Any = step(torch.cat(group).to(self._device))
        return (results[i : i + 1] for i in range(len(group)))
