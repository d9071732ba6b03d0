"""Features computed in large batches on a device of its own.

Batches are planned by the clips' lengths, in blocks that no shard's end cuts through. While a block is written the next
one is on its way: uploaded, computed and downloaded side by side, and finished by a few threads. Long clips are read
ahead; they are computed in windows while they are written.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.edges import NO_MARGINS, Margins
from hlfeat.errors import ClipError
from hlfeat.extraction.batch_size import BatchSize, find_batch_samples
from hlfeat.extraction.batching import plan_batches
from hlfeat.extraction.blocks import Block
from hlfeat.extraction.clip_loader import Cancelled, ClipLoader
from hlfeat.extraction.device_queue import DeviceQueue, make_queue
from hlfeat.extraction.device_windows import DeviceWindows
from hlfeat.extraction.engine import ClipStreamer, FeatureArrays, join_channels
from hlfeat.extraction.events import Event, LoadedClip, ShardBreak, WorkerEvent
from hlfeat.extraction.finishing import Channel, ComputedBatch, Finished, Finisher, sums_of
from hlfeat.extraction.options import Limits
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import PoolMap
from hlfeat.extraction.read_ahead import ClipRead, ReadAhead
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.margins import features_within, inside


class BatchEngine:
    """Computes in batches, resampling included; an Engine.

    Args:
        extractor: in eval mode, on the device.
        postprocessor: what is done to features before they are written.
        loader: reads clips.
        device: where the extractor is.
        dtype: of what is written.
        batch_samples: of a batch after resampling, padding included; None: as many as memory allows.
        limits: how much is computed at once.
        queue: copies to the device and back; default: `make_queue`.
    """

    def __init__(
        self,
        extractor: Extractor,
        postprocessor: PostProcessor,
        loader: ClipLoader,
        device: torch.device,
        dtype: np.dtype[Any],
        batch_samples: int | None,
        limits: Limits,
        queue: DeviceQueue | None = None,
    ) -> None:
        self._extractor, self._postprocessor, self.loader, self._device = extractor, postprocessor, loader, device
        self._limits = limits
        self._arrays = FeatureArrays(dtype)
        self._queue = queue or make_queue(device)
        self._size = BatchSize(batch_samples, self._find_batch_samples, self._queue, device)
        self._streamer = ClipStreamer(extractor, postprocessor, loader, self._arrays, limits)
        dtype_read = None if postprocessor.changes else self._arrays.torch_dtype
        self._windows = DeviceWindows(self._queue, self._size, dtype_read, limits.window_samples)
        self.apply = self._streamer.apply

    def start_worker(self) -> None:
        pass

    def in_worker(self, clips: list[Clip], cancelled: Cancelled) -> list[WorkerEvent]:
        """Read the clips."""
        return self.loader.load_all(clips, cancelled, resample=False)

    def compute(
        self, stream: Iterable[Event], pool: PoolMap, scratch: Path, cancelled: Cancelled
    ) -> Generator[Event, None, None]:
        """Blocks of clips, of which some are computed while the one before them is written."""
        limits, at_once = self._limits, max(1, min(self._limits.long_reads, pool.workers))
        with (
            ReadAhead(pool.read, cancelled, at_once, limits.long_bytes) as ahead,
            Finisher(self._arrays, self._postprocessor) as finisher,
        ):
            launched: deque[Block] = deque()
            block: Block | None = None

            def launch(block: Block) -> Iterator[Event]:
                """Launch a block; then the events of earlier blocks, as far as they are more than may wait."""
                self._launch(block, finisher, cancelled)
                launched.append(block)
                while len(launched) > 1 and (sum(block.fill for block in launched) > 1 or cancelled()):
                    yield from self._collect(launched.popleft(), finisher, scratch)

            for event in stream:
                if block is not None and isinstance(event, ShardBreak):
                    yield from launch(block)
                    block = None
                if block is None:
                    block = Block(limits, self._size.samples, at_once)
                if isinstance(event, LoadedClip) and event.long:
                    reads = [ahead.add(event.info, channel) for channel in range(event.info.channels_out)]
                    block.reads[len(block.events)] = reads
                block.add(event)
                if block.fill >= 1 or cancelled():
                    yield from launch(block)
                    block = None
            if block is not None:
                yield from launch(block)
            for block in launched:
                yield from self._collect(block, finisher, scratch)

    def _launch(self, block: Block, finisher: Finisher, cancelled: Cancelled) -> None:
        """Give the device the block's work; clips of one rate and of similar length make a batch, with margins of one
        length before them."""
        start = time.perf_counter()
        alike: dict[tuple[int, int], list[tuple[tuple[int, int], Channel]]] = {}  # place, channel
        for i, event in enumerate(block.events):
            if isinstance(event, LoadedClip) and not event.long:
                channels = alike.setdefault((event.info.sample_rate, event.info.margins.before), [])
                for c, (waveform, silent) in enumerate(zip(event.waveforms, event.silent, strict=True)):
                    channels.append(((i, c), Channel(waveform, silent, event.info)))
        for placed in alike.values():
            lengths = [channel.info.extended_length for _, channel in placed]
            for batch in plan_batches(lengths, self._size.samples):
                if cancelled():
                    break
                finished = self._compute([placed[j][1] for j in batch], finisher)
                block.finished.update((placed[j][0], result) for j, result in zip(batch, finished, strict=True))
        block.seconds = time.perf_counter() - start

    def _collect(self, block: Block, finisher: Finisher, scratch: Path) -> Iterator[Event]:
        """The block's events, with features once they are finished."""
        cancelled = ClipError("cancelled", "the run was stopped")
        launching = block.seconds  # of all, counted with the first
        for i in range(len(block.events)):
            event = block.events.popleft()
            if not isinstance(event, LoadedClip):
                yield event
            elif event.long:
                yield from self._collect_long(event, block.reads[i], finisher, scratch)
            else:
                start = time.perf_counter()
                waits = [block.finished.pop((i, c), lambda: cancelled) for c in range(len(event.waveforms))]
                channels = [wait() for wait in waits]
                seconds, launching = launching + time.perf_counter() - start, 0.0
                yield join_channels(event, channels, {"compute": seconds})

    def _collect_long(
        self, loaded: LoadedClip, reads: Sequence[ClipRead], finisher: Finisher, scratch: Path
    ) -> Iterator[Event]:
        try:
            windows = self._windows
            yield self._streamer.compute_long(
                loaded, reads, windows.map, finisher.map, scratch, windows.to_device, windows.to_host
            )
        finally:  # a clip that has failed is not read any further
            for read in reads:
                read.close()

    def _compute(self, channels: Sequence[Channel], finisher: Finisher) -> list[Any]:
        """Functions that wait for what is written of each channel of a batch."""

        def compute(part: Sequence[Channel]) -> list[Any]:
            return finisher.begin(self._forward(part))

        results = self._size.compute(channels, lambda c: c.info.extended_length, compute, "clip")
        return [_failed(result) if isinstance(result, ClipError) else result for result in results]

    def _forward(self, channels: Sequence[Channel]) -> ComputedBatch:
        """A batch on its way through the device."""
        rate = channels[0].info.sample_rate
        lengths = torch.tensor([channel.info.length for channel in channels])
        frames = self._extractor.num_frames(lengths)
        with torch.inference_mode(), self._queue.computing():
            x = self.loader.resampler(self._queue.upload([channel.waveform for channel in channels]), rate)
            if all(channel.info.margins == NO_MARGINS for channel in channels):
                lengths, numbers = self._queue.upload([lengths, frames])
                y = self._extractor(x, lengths)
            else:
                y, numbers = self._within_margins(channels, x, lengths, frames)
            y, sums = self._downloads(y, numbers)
            y = self._queue.download(y)
            sums = None if sums is None else self._queue.download(sums)
        return ComputedBatch(channels, y, sums, frames.tolist(), self._queue.done())

    def _within_margins(
        self, channels: Sequence[Channel], x: Tensor, lengths: Tensor, frames: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features of clips, whose margins are computed with them, and their frames, on the device.

        Shape: x [B, T'] resampled, lengths [B] and frames [B] of the clips alone -> [B, C, F, N], [B].
        """
        info, longest = channels[0].info, int(lengths.max())
        extended = torch.tensor([channel.info.extended_length for channel in channels])
        margins = Margins(info.margins.before, int(extended.max()) - info.margins.before - longest)
        lengths, extended, frames = self._queue.upload([lengths, extended, frames])
        x = self.loader.edges.apply(x, info.sample_rate, margins, longest, lengths)
        clip = inside(self._extractor, margins.before, longest, lengths)
        return features_within(self._extractor, x, clip, extended), frames

    def _downloads(self, y: Tensor, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is downloaded of a batch: features, as they are written unless they are changed, and their sums.

        Shape: y [B, C, F, N], frames [B] -> [B, N, C, F], [B, 5, C, F].
        """
        y = y.permute(0, 3, 1, 2)
        if self._postprocessor.changes:
            return y.contiguous(), None
        y = y.to(self._arrays.torch_dtype).contiguous()
        return y, sums_of(y, frames) if self._queue.float64 else None

    def _find_batch_samples(self) -> int:
        """As many as memory allows."""

        def compute(waveforms: Sequence[Tensor]) -> None:
            lengths = torch.tensor([len(w) for w in waveforms])
            with torch.inference_mode(), self._queue.computing():
                lengths, frames = self._queue.upload([lengths, self._extractor.num_frames(lengths)])
                self._downloads(self._extractor(self._queue.upload(waveforms), lengths), frames)

        return find_batch_samples(self._queue, self._extractor.sample_rate, compute)


def _failed(error: ClipError) -> Any:
    def result() -> Finished:
        return error

    return result
