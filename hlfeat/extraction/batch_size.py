"""How much audio a batch holds: what memory allows, and less once it has turned out not to suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from hlfeat.errors import ClipError
from hlfeat.extraction.device_queue import DeviceQueue
from hlfeat.nn.device import out_of_memory, perhaps_out_of_memory
from hlfeat.text import count

log = logging.getLogger("hlfeat")

T = TypeVar("T")
R = TypeVar("R")

LEAST_SECONDS, MOST_SECONDS = 8.0, 512.0  # of audio in a batch whose size is found
SECONDS_UNKNOWN = 64.0  # where the device does not say how much memory it has
SHARE = 0.5  # of the free memory: batches of other lengths and rates need more than the trial
TRIAL_CLIPS, TRIAL_SECONDS = 4, 4  # of a batch whose memory is measured


def find_batch_samples(queue: DeviceQueue, rate: int, compute: Callable[[Sequence[Tensor]], object]) -> int:
    """Samples of a batch that takes a share of the device's free memory.

    A trial batch says how much a second of audio takes. Its first run does not count: what libraries allocate once
    stays.

    Args:
        rate: samples a second.
        compute: computes the features of waveforms [T] on the device.
    """
    if queue.free_bytes() is None:
        return int(SECONDS_UNKNOWN * rate)
    trial = [torch.zeros(TRIAL_SECONDS * rate)] * TRIAL_CLIPS
    try:
        compute(trial)
        peak = queue.peak_bytes(lambda: compute(trial))
    except (RuntimeError, MemoryError) as e:
        if not perhaps_out_of_memory(e):
            raise
        peak = None
    if peak is None:
        queue.empty_cache()
        return int(LEAST_SECONDS * rate)
    second, free = max(1, peak) / (TRIAL_CLIPS * TRIAL_SECONDS), queue.free_bytes() or 0
    seconds = min(MOST_SECONDS, max(LEAST_SECONDS, SHARE * free / second))
    log.debug("batches of %.0f s: a second takes %.2f MiB, %.0f MiB are free", seconds, second / 2**20, free / 2**20)
    return int(seconds * rate)


class BatchSize:
    """Samples that a batch may have, padding included; computes batches, in halves where memory does not suffice.

    A size that failed is not tried again: later batches are at most as large as the halves. A single clip is always
    tried, since it cannot be made smaller.

    Args:
        samples: of a batch; None: as many as `find` returns.
        find: called once, when a batch is needed first.
        queue: of the device.
        device: for messages.
    """

    def __init__(self, samples: int | None, find: Callable[[], int], queue: DeviceQueue, device: torch.device) -> None:
        self._samples, self._find, self._queue, self.device = samples, find, queue, device

    @property
    def samples(self) -> int:
        if self._samples is None:
            self._samples = self._find()
        return self._samples

    def compute(
        self, items: Sequence[T], length: Callable[[T], int], compute: Callable[[Sequence[T]], Sequence[R]], what: str
    ) -> list[R | ClipError]:
        """The results of a batch, in order. An item for which the memory does not suffice has a ClipError.

        Args:
            items: one or more.
            length: of an item, in samples; the longest counts for all.
            compute: a result for each of some items.
            what: an item, for messages.
        """
        size = len(items) * max(map(length, items))
        half = len(items) // 2
        if not half or size <= self.samples:
            try:
                return list(compute(items))
            except (RuntimeError, MemoryError) as e:
                if not (perhaps_out_of_memory(e) if half else out_of_memory(e)):
                    raise
            # Here, as the frames that the exception kept alive, and their tensors with them, are gone
            self._queue.empty_cache()
            self._samples = min(self.samples, -(-size // 2))
            if not half:
                return [ClipError("out-of-memory", f"too long for the memory of {self.device}")]
            log.info("out of memory with a batch of %s: going on with halves", count(len(items), what))
        parts = (items[:half], items[half:])
        return [result for part in parts for result in self.compute(part, length, compute, what)]
