"""Long clips through a device: windows in groups, of which the next is on its way while the last is downloaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from hlfeat.errors import ClipError
from hlfeat.extraction.batch_size import BatchSize
from hlfeat.extraction.device_queue import DeviceQueue, Wait
from hlfeat.extraction.streaming import Step
from hlfeat.nn.device import out_of_memory

Y = TypeVar("Y")


class DeviceWindows:
    """Maps steps of long clips over windows on a device, and brings samples there and features back.

    Args:
        queue: of the device.
        size: of a batch.
        dtype: that features are converted to before they are downloaded; None: they stay as they are.
        window_samples: of a window, about.
    """

    def __init__(self, queue: DeviceQueue, size: BatchSize, dtype: torch.dtype | None, window_samples: int) -> None:
        self._queue, self._size, self._dtype, self._window_samples = queue, size, dtype, window_samples

    @property
    def _at_once(self) -> int:
        """Windows that are computed together."""
        return max(1, self._size.samples // self._window_samples)

    def to_device(self, samples: Iterable[Tensor]) -> Iterator[Tensor]:
        """Blocks of samples on the device. Shape: [1, t] each."""
        for block in samples:
            yield self._queue.upload([block[0]])

    def map(self, step: Step[Y], items: Iterable[Tensor]) -> Iterator[Y]:
        """A step over windows on the device, as many of one size at once as make a batch. Raises ClipError where memory
        does not suffice for one."""
        group: list[Tensor] = []
        for item in items:
            if group and (len(group) >= self._at_once or group[0].shape != item.shape):
                yield from self._apply(step, group)
                group = []
            group.append(item)
        if group:
            yield from self._apply(step, group)

    def _apply(self, step: Step[Y], group: list[Tensor]) -> Iterator[Y]:
        def compute(part: Sequence[Tensor]) -> list[Any]:
            with self._queue.computing():
                results: Any = step(torch.cat(list(part)))
            return [results[i : i + 1] for i in range(len(part))]

        for result in self._size.compute(group, lambda window: self._window_samples, compute, "window"):
            if isinstance(result, ClipError):
                raise result
            yield result

    def to_host(self, features: Iterable[Tensor]) -> Iterator[Tensor]:
        """Chunks of features on the host; as many are begun ahead as a group of windows makes.

        Raises ClipError where memory does not suffice for what goes through the device in one piece.

        Shape: [n, C, F] each.
        """
        pending: deque[tuple[Tensor, Wait]] = deque()
        try:
            for y in features:
                with self._queue.computing():
                    y = (y if self._dtype is None else y.to(self._dtype)).contiguous()
                pending.append((self._queue.download(y), self._queue.done()))
                if len(pending) > self._at_once:
                    yield _waited(*pending.popleft())
            while pending:
                yield _waited(*pending.popleft())
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            raise ClipError("out-of-memory", f"too long for the memory of {self._size.device}") from e


def _waited(host: Tensor, wait: Wait) -> Tensor:
    wait()
    return host
