"""Features computed by the threads that read the clips.

Every thread computes what it has read, with one thread of torch's: nothing waits for anything, and no sum depends on
how many cores there are. Clips of a few seconds share the filterbank's matrix products, whose rows do not see one
another; everything after that is a clip's own. So neither batches nor threads have a part in the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError
from hlfeat.extraction.batching import pad, plan_batches
from hlfeat.extraction.clip_loader import Failure, Item
from hlfeat.extraction.engine import Engine
from hlfeat.extraction.thread_map import Threads
from hlfeat.nn.device import out_of_memory
from hlfeat.statistics.moments import Moments, moments

CPU_BATCH = 1 << 18  # samples that go through the filterbank at once, so that a second of audio is worth its matrices


class CpuEngine(Engine):
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
            local = frontend.compute_bands(x, lengths if len(waveforms) > 1 else None)  # [B, F, N]
            for y, wave, n in zip(local, waveforms, frontend.num_frames(lengths).tolist(), strict=True):
                own = frontend.compress(y[None, :, :n].contiguous(), None)
                features = self.extractor.layers(own)[0].permute(2, 0, 1)
                try:
                    finished = self._output(self.finish.whole(features))
                    found.append(self._checked(finished, lambda w=wave: float(w.abs().max())))  # type: ignore[misc]
                except ClipError as e:
                    found.append(e)
        return found
