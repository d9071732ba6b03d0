"""Features computed in large batches on a device of its own.

Batches are planned by the clips' lengths, in blocks that no shard's end cuts through. The next block is on its way
while the last one is written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError
from hlfeat.extraction.batching import pad, plan_batches
from hlfeat.extraction.clip_loader import Failure, Item
from hlfeat.extraction.engine import Engine
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.streaming import WINDOW_SAMPLES, Apply
from hlfeat.nn.device import out_of_memory
from hlfeat.nn.extractor import Extractor
from hlfeat.statistics.moments import from_sums, moments

log = logging.getLogger("hlfeat")

BLOCK_BATCHES = 8  # a block of clips is sorted by length and cut into about this many batches

Made = tuple[Tensor, Tensor]  # features of a clip [n, C, F] and their sums [5, C, F]


@dataclass
class _Block:
    """Items whose features are being computed: those of each entry, and a way to wait for them."""

    items: list[Item | Failure] = field(default_factory=list)
    samples: int = 0
    features: dict[tuple[int, int], Made | ClipError] = field(default_factory=dict)
    done: Callable[[], None] = lambda: None


class BatchEngine(Engine):
    """Computes in batches, resampling included.

    Args:
        batch_samples: of a batch after resampling, padding included.
    """

    def __init__(
        self,
        extractor: Extractor,
        finish: PostProcessor,
        device: torch.device,
        dtype: np.dtype[Any],
        channels: str | int,
        batch_samples: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(extractor, finish, device, dtype, channels)
        self.batch_samples = batch_samples
        self.stopped = stopped
        self.in_order = self._windows

    def _read(self, clip: Clip, cancelled: Callable[[], bool]) -> Item:
        return self.loader(clip, cancelled, resample=False)

    def stream(self, items: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        block, launched = _Block(), _Block()
        for item in items:
            if isinstance(item, Item) and (item.opens_shard or item.long):
                next_ = self._launch(block)
                yield from self._collect(launched)
                block, launched = _Block(), next_
            if isinstance(item, Item) and item.long:
                yield from self._collect(launched)
                launched = _Block()
                yield item
                continue
            block.items.append(item)
            block.samples += 0 if not isinstance(item, Item) else item.length * item.entries
            if block.samples >= BLOCK_BATCHES * self.batch_samples:
                next_ = self._launch(block)
                yield from self._collect(launched)
                block, launched = _Block(), next_
        next_ = self._launch(block)
        yield from self._collect(launched)
        yield from self._collect(next_)

    def _launch(self, block: _Block) -> _Block:
        """Give the device the block's work; clips of one rate and of similar length make a batch."""
        start = time.perf_counter()
        by_rate: dict[int, list[tuple[int, int]]] = {}
        for i, item in enumerate(block.items):
            if isinstance(item, Item):
                by_rate.setdefault(item.sample_rate, []).extend((i, e) for e in range(item.entries))
        for rate, places in by_rate.items():
            items = [block.items[i] for i, _ in places]
            lengths = [item.length for item in items if isinstance(item, Item)]
            for batch in plan_batches(lengths, self.batch_samples):
                if self.stopped():
                    break
                waveforms = [block.items[places[j][0]].waveforms[places[j][1]] for j in batch]  # type: ignore[union-attr]
                found = self._compute(waveforms, rate)
                block.features.update((places[j], y) for j, y in zip(batch, found, strict=True))
        if self.device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            block.done = event.synchronize
        self._spend(block, time.perf_counter() - start)
        return block

    def _spend(self, block: _Block, seconds: float) -> None:
        first = next((item for item in block.items if isinstance(item, Item)), None)
        if first is not None:
            first.seconds["compute"] = first.seconds.get("compute", 0.0) + seconds

    def _collect(self, block: _Block) -> Iterator[Item | Failure]:
        """The block's items with their features, once the device is done with them."""
        start = time.perf_counter()
        block.done()
        self._spend(block, time.perf_counter() - start)
        for i, item in enumerate(block.items):
            if isinstance(item, Item):
                for e, wave in enumerate(item.waveforms):
                    y = block.features.get((i, e), ClipError("cancelled", "the run was stopped"))
                    try:
                        if isinstance(y, ClipError):
                            raise y
                        features = self._output(self.finish.whole(y[0]))
                        self._checked(features, lambda w=wave: float(w.abs().max()))  # type: ignore[misc]
                        own = moments(features) if self.finish.changes else from_sums(len(features), *y[1].numpy())
                        item.features.append(features)
                        item.moments.append(own)
                    except ClipError as error:
                        item.features.append(error)
                        item.moments.append(None)
                item.waveforms = []
            yield item

    def _compute(self, waveforms: Sequence[Tensor], rate: int) -> list[Made | ClipError]:
        """Features of each clip of a batch; where memory does not suffice, in halves."""
        try:
            return list(self._forward(waveforms, rate))
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(waveforms) == 1:
            return [self._too_long()]
        log.info("out of memory with a batch of %d clips: going on with halves", len(waveforms))
        half = len(waveforms) // 2
        return self._compute(waveforms[:half], rate) + self._compute(waveforms[half:], rate)

    def _forward(self, waveforms: Sequence[Tensor], rate: int) -> list[Made]:
        x, lengths = pad(waveforms)
        old, new, _ = self.resampler.ratio(rate)
        lengths = -(-lengths * new // old)
        frames = self.extractor.num_frames(lengths)
        on_cuda = self.device.type == "cuda"
        with torch.inference_mode():
            if on_cuda:
                x, lengths = x.pin_memory(), lengths.pin_memory()
            x, lengths = x.to(self.device, non_blocking=on_cuda), lengths.to(self.device, non_blocking=on_cuda)
            y = self.extractor(self.resampler(x, rate), lengths).permute(0, 3, 1, 2)  # [B, N, C, F]
            y = (y if self.finish.changes else y.to(getattr(torch, self.dtype.name))).contiguous()
            sums = self._sums(y, frames.pin_memory() if on_cuda else frames)
            if on_cuda:  # copies that the host does not wait for, until the block is collected
                y, sums = (torch.empty(a.shape, dtype=a.dtype, pin_memory=True).copy_(a, non_blocking=True)
                           for a in (y, sums))  # fmt: skip
            y, sums = y.cpu(), sums.cpu()
        return [(clip[:n], own) for clip, own, n in zip(y, sums, frames.tolist(), strict=True)]

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

    def _windows(self, apply: Apply, items: Iterable[Tensor]) -> Iterator[Tensor]:
        """A function over a long clip's windows on the device, as many of one size at once as make a batch."""
        most = max(1, self.batch_samples // WINDOW_SAMPLES)
        group: list[Tensor] = []
        for item in items:
            if group and (len(group) >= most or group[0].shape != item.shape):
                yield from self._apply(apply, group)
                group = []
            group.append(item)
        if group:
            yield from self._apply(apply, group)

    def _apply(self, apply: Apply, group: list[Tensor]) -> Iterator[Tensor]:
        found = apply(torch.cat(group).to(self.device))
        return (found[i : i + 1] for i in range(len(group)))
