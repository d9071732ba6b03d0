"""Waveforms to features on a device.

On the CPU every thread computes the clips that it has read, with one thread of torch's: nothing waits for anything, and
no sum depends on how many cores there are. Clips of a few seconds share the filterbank's matrix products, whose rows do
not see one another; everything after that is a clip's own. So neither batches nor threads have a part in the result.

On another device clips go in large batches, planned by their lengths in blocks that no shard's end cuts through. The
next block is on its way while the last one is written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfeat.batching import pad, plan_batches
from hlfeat.clip import Clip
from hlfeat.errors import ClipError
from hlfeat.extractor import Extractor
from hlfeat.finishing import Finish
from hlfeat.loader import Failure, Item, Loader, out_of_memory
from hlfeat.moments import Moments, from_sums, moments
from hlfeat.resample import Resampler
from hlfeat.spool import Spool
from hlfeat.streaming import WINDOW_SAMPLES, Apply, InOrder, Threads, stream

log = logging.getLogger("hlfeat")

CPU_BATCH = 1 << 18  # samples that go through the filterbank at once, so that a second of audio is worth its matrices
BLOCK_BATCHES = 8  # a block of clips is sorted by length and cut into about this many batches


class Computer:
    """Features of clips on one device.

    Args:
        extractor: in eval mode, on the device.
        finish: what is done to features before they are written.
        device: where the extractor is.
        dtype: of what is written.
        channels: the channel policy of reading (see `decode`).
    """

    def __init__(
        self, extractor: Extractor, finish: Finish, device: torch.device, dtype: np.dtype[Any], channels: str | int
    ) -> None:
        self.extractor, self.finish, self.device, self.dtype = extractor, finish, device, dtype
        self.resampler = Resampler(extractor.sample_rate)
        self.loader = Loader(self.resampler, channels)
        self.in_order: InOrder

    def start_thread(self) -> None:
        """Called in every worker thread first."""

    def work(self, clips: list[Clip], cancelled: Callable[[], bool]) -> list[Item | Failure]:
        """What the worker threads do: read clips."""
        found: list[Item | Failure] = []
        for clip in clips:
            try:
                found.append(self._read(clip, cancelled))
            except ClipError as e:
                found.append((clip, e))
        return found

    def _read(self, clip: Clip, cancelled: Callable[[], bool]) -> Item:
        return self.loader(clip, cancelled)

    def use(self, pool: ThreadPoolExecutor, workers: int) -> None:
        """Told the worker threads, which may be given other work too."""

    def stream(self, items: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        """Items that have been read to items with features, in order; long ones stay as they are."""
        raise NotImplementedError

    def long(
        self, item: Item, entry: int, folder: Path, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[np.ndarray, Moments]]:
        """What is written of one entry of a long clip, which is read meanwhile: [n, *finish.shape] each; its moments.

        Raises ClipError where the clip turns out to be bad; `folder` is for what does not fit into memory.
        """
        pieces = self.loader.pieces(item, entry, cancelled)
        with torch.inference_mode():
            features = stream(
                self.extractor, pieces, item.sample_rate, self.resampler, self.in_order, lambda: Spool(folder)
            )
            yield from self._written(self.finish(features))

    def _written(self, pieces: Iterable[Tensor]) -> Iterator[tuple[np.ndarray, Moments]]:
        """Pieces of a long clip as they are written, with their moments."""
        return map(self._write, pieces)

    def _write(self, piece: Tensor) -> tuple[np.ndarray, Moments]:
        y = self._checked(self._output(piece))
        return y, moments(y)

    def _output(self, y: Tensor) -> np.ndarray:
        return y.to(getattr(torch, self.dtype.name)).cpu().contiguous().numpy()

    def _checked(self, y: np.ndarray, loudest: Callable[[], float] | None = None) -> np.ndarray:
        if not np.isfinite(y).all():
            why = "" if loudest is None else f": samples as large as {loudest():.3g}"
            raise ClipError("non-finite", f"features that {self.dtype.name} cannot hold{why}")
        return y

    def _too_long(self) -> ClipError:
        return ClipError("out-of-memory", f"too long for the memory of {self.device}")


class CpuComputer(Computer):
    """Computes in the worker threads."""

    def start_thread(self) -> None:
        torch.set_num_threads(1)

    def use(self, pool: ThreadPoolExecutor, workers: int) -> None:
        self.in_order = self._threads = Threads(pool, workers + 1)

    def _written(self, pieces: Iterable[Tensor]) -> Iterator[tuple[np.ndarray, Moments]]:
        return self._threads(self._write, pieces)

    def work(self, clips: list[Clip], cancelled: Callable[[], bool]) -> list[Item | Failure]:
        found = super().work(clips, cancelled)
        items = [item for item in found if isinstance(item, Item) and item.waveforms]
        start = time.perf_counter()
        features = self.features([w for item in items for w in item.waveforms], cancelled)
        for item in items:
            item.features, item.waveforms = [next(features) for _ in item.waveforms], []
            item.moments = [None if isinstance(y, ClipError) else moments(y) for y in item.features]
        if items:
            items[0].seconds["compute"] = time.perf_counter() - start
        return found

    def stream(self, items: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        return iter(items)

    def features(
        self, waveforms: Sequence[Tensor], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[np.ndarray | ClipError]:
        """What is written, [n, *finish.shape], of each waveform [T]."""
        done: dict[int, np.ndarray | ClipError] = {}
        for batch in plan_batches([len(w) for w in waveforms], CPU_BATCH):
            if cancelled():
                done.update(dict.fromkeys(batch, ClipError("cancelled", "the run was stopped")))
                continue
            done.update(zip(batch, self._compute([waveforms[i] for i in batch]), strict=True))
        return (done[i] for i in range(len(waveforms)))

    def _compute(self, waveforms: list[Tensor]) -> list[np.ndarray | ClipError]:
        try:
            return self._forward(waveforms)
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
        if len(waveforms) > 1:
            return [y for w in waveforms for y in self._compute([w])]
        return [self._too_long()]

    def _forward(self, waveforms: list[Tensor]) -> list[np.ndarray | ClipError]:
        frontend = self.extractor.frontend
        found: list[np.ndarray | ClipError] = []
        with torch.inference_mode():
            x, lengths = pad(waveforms)
            local = frontend.local(x, lengths if len(waveforms) > 1 else None)  # [B, F, N]
            for y, wave, n in zip(local, waveforms, frontend.num_frames(lengths).tolist(), strict=True):
                own = frontend.rest(y[None, :, :n].contiguous(), None)
                features = self.extractor.layers(own)[0].permute(2, 0, 1)
                try:
                    finished = self._output(self.finish.whole(features))
                    found.append(self._checked(finished, lambda w=wave: float(w.abs().max())))  # type: ignore[misc]
                except ClipError as e:
                    found.append(e)
        return found


Made = tuple[Tensor, Tensor]  # features of a clip [n, C, F] and their sums [5, C, F]


@dataclass
class _Block:
    """Items whose features are being computed: those of each entry, and a way to wait for them."""

    items: list[Item | Failure] = field(default_factory=list)
    samples: int = 0
    features: dict[tuple[int, int], Made | ClipError] = field(default_factory=dict)
    done: Callable[[], None] = lambda: None


class DeviceComputer(Computer):
    """Computes in batches, resampling included.

    Args:
        batch_samples: of a batch after resampling, padding included.
    """

    def __init__(
        self,
        extractor: Extractor,
        finish: Finish,
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


def computer(
    extractor: Extractor,
    finish: Finish,
    device: torch.device,
    dtype: np.dtype[Any],
    channels: str | int,
    batch_samples: int,
    stopped: Callable[[], bool],
) -> Computer:
    """What fits the device."""
    if device.type == "cpu":
        return CpuComputer(extractor, finish, device, dtype, channels)
    return DeviceComputer(extractor, finish, device, dtype, channels, batch_samples, stopped)
