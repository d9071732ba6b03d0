"""How samples get to a device and features back.

On a GPU the host waits for nothing that it does not need yet: samples are padded into pinned memory and uploaded on a
stream of their own, features are downloaded on another, both beside the computation, which runs on the device's current
stream. torch keeps pinned memory that was copied and gives it out again once the copy is done.

Every call selects the device for itself and restores the caller's: nothing here opens a context on another GPU. Streams
are made with the first call, so a queue can be made before processes are forked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hlfeat.extraction.batching import pad
from hlfeat.nn.device import on_device

Wait = Callable[[], None]


class DeviceQueue(Protocol):
    """Copies to a device and back, and its memory. For the thread of the run; what `done` returns is for any.

    Attributes:
        float64: whether the device has it.
    """

    float64: bool

    def upload(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows of one type, padded with zeros on the right, on the device.

        Shape: B times [T_i] -> [B, max T_i].
        """

    def download(self, x: Tensor) -> Tensor:
        """A tensor on the host, of the same shape. It holds the values once a `done` that comes later has waited."""

    def done(self) -> Wait:
        """A function that returns when all that was downloaded so far is there. It may be called in any thread."""

    def computing(self) -> AbstractContextManager[Any]:
        """The context in which the device's tensors are computed."""

    def free_bytes(self) -> int | None:
        """Memory of the device that can be used; None if it does not say."""

    def peak_bytes(self, call: Callable[[], object]) -> int:
        """Memory of the device that a call takes, at the highest, where `free_bytes` says something."""

    def empty_cache(self) -> None:
        """Give memory that torch keeps back to the device."""


class PlainQueue:
    """Copies that the host waits for: of a CPU, and of devices without streams."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.float64 = device, device.type != "mps"

    def upload(self, rows: Sequence[Tensor]) -> Tensor:
        return pad(rows)[0].to(self._device)

    def download(self, x: Tensor) -> Tensor:
        return x.cpu()

    def done(self) -> Wait:
        return lambda: None

    def computing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def free_bytes(self) -> int | None:
        return None

    def peak_bytes(self, call: Callable[[], object]) -> int:
        raise NotImplementedError("the device does not say how much memory it has")

    def empty_cache(self) -> None:
        if self._device.type == "mps":
            torch.mps.empty_cache()


class Cuda:
    """What a CudaQueue asks of torch; tests have another one. All of it is called with the right device selected."""

    def on_device(self, device: torch.device) -> AbstractContextManager[Any]:
        return on_device(device)

    def current_device(self) -> int:
        return torch.cuda.current_device()

    def new_stream(self, device: torch.device) -> torch.cuda.Stream:
        return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def current_stream(self, device: torch.device) -> torch.cuda.Stream:
        return torch.cuda.current_stream(device)

    def on_stream(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def record_event(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        """An event that a thread can wait for without keeping a core busy."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        return event

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def copy_to_device(self, host: Tensor, device: torch.device) -> Tensor:
        return host.to(device, non_blocking=True)

    def copy_to_host(self, host: Tensor, x: Tensor) -> None:
        host.copy_(x, non_blocking=True)

    def record_stream(self, x: Tensor, stream: torch.cuda.Stream) -> None:
        x.record_stream(stream)

    def free_bytes(self, device: torch.device) -> int:
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept

    def peak_bytes(self, device: torch.device, call: Callable[[], object]) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()


class _Streams(NamedTuple):
    """The device, with its number, and the streams of copies to it and from it."""

    device: torch.device
    up: torch.cuda.Stream
    down: torch.cuda.Stream


class CudaQueue:
    """Copies beside the computation, on a CUDA device.

    A tensor that one stream made and another one uses is recorded with the latter, so that its memory is not given out
    again before the latter is done with it.

    Args:
        device: a CUDA device; without a number it is the current one of the thread that uses the queue first.
    """

    float64 = True

    def __init__(self, device: torch.device, cuda: Cuda = Cuda()) -> None:  # noqa: B008
        self._device, self._cuda = device, cuda
        self._made: _Streams | None = None

    @property
    def _streams(self) -> _Streams:
        if self._made is None:
            number = self._cuda.current_device() if self._device.index is None else self._device.index
            device = torch.device("cuda", number)
            with self._cuda.on_device(device):
                self._made = _Streams(device, self._cuda.new_stream(device), self._cuda.new_stream(device))
        return self._made

    def upload(self, rows: Sequence[Tensor]) -> Tensor:
        device, up, _ = self._streams
        with self._cuda.on_device(device):
            host = self._cuda.pinned((len(rows), max(map(len, rows))), rows[0].dtype)
            for place, row in zip(host.numpy(), rows, strict=True):
                place[: len(row)] = row.numpy()
                place[len(row) :] = 0
            with self._cuda.on_stream(up):
                x = self._cuda.copy_to_device(host, device)
            computing = self._cuda.current_stream(device)
            computing.wait_stream(up)
            self._cuda.record_stream(x, computing)
        return x

    def download(self, x: Tensor) -> Tensor:
        device, _, down = self._streams
        with self._cuda.on_device(device):
            host = self._cuda.pinned(x.shape, x.dtype)
            down.wait_stream(self._cuda.current_stream(device))
            with self._cuda.on_stream(down):
                self._cuda.copy_to_host(host, x)
            self._cuda.record_stream(x, down)
        return host

    def done(self) -> Wait:
        device, _, down = self._streams
        with self._cuda.on_device(device):
            event = self._cuda.record_event(down)

        def wait() -> None:
            with self._cuda.on_device(device):
                event.synchronize()

        return wait

    def computing(self) -> AbstractContextManager[Any]:
        return self._cuda.on_device(self._streams.device)

    def free_bytes(self) -> int | None:
        device = self._streams.device
        with self._cuda.on_device(device):
            return self._cuda.free_bytes(device)

    def peak_bytes(self, call: Callable[[], object]) -> int:
        device = self._streams.device
        with self._cuda.on_device(device):
            return self._cuda.peak_bytes(device, call)

    def empty_cache(self) -> None:
        with self._cuda.on_device(self._streams.device):
            self._cuda.empty_cache()


def make_queue(device: torch.device) -> DeviceQueue:
    """The queue of a device."""
    return CudaQueue(device) if device.type == "cuda" else PlainQueue(device)
