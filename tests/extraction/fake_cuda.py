"""A stand-in for torch.cuda: notes what is asked of it, and copies as late as a GPU may.

Its device tensors are on the CPU. A copy happens when something waits for it: an upload when another stream waits for
the copying one, a download when an event that was recorded after it is waited for. Until then its target holds what
cannot be mistaken for data. So a wait that is missing shows in the results.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.device_queue import Cuda, CudaQueue


@dataclass
class FakeStream:
    """A stream, with the copies that have not happened yet."""

    cuda: FakeCuda
    name: str
    device: int
    copies: list[Callable[[], None]] = field(default_factory=list)

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.note(f"wait for {other.name}", self)
        self.cuda.finish(other, len(other.copies))


@dataclass
class FakeEvent:
    stream: FakeStream
    copies: int  # of the stream's, before the event

    def synchronize(self) -> None:
        self.stream.cuda.note("synchronize", self.stream)
        self.stream.cuda.waiting.add(threading.current_thread().name)
        self.stream.cuda.finish(self.stream, self.copies)


class FakeCuda(Cuda):
    """Devices that are not there.

    Args:
        free: bytes of each.
        peak: bytes that any call takes.

    Attributes:
        operations: what was asked for: its name, the stream that it is for, and the device that was selected.
        copied: rows of each upload of samples.
        wrong_device: operations while another device than the stream's was selected.
        waiting: names of the threads that waited for an event.
        fails: called with the rows before each upload of samples; it may raise.
    """

    def __init__(self, free: int = 1 << 30, peak: int = 1 << 20) -> None:
        self.free, self.peak = free, peak
        self.operations: list[tuple[str, str, int]] = []
        self.copied: list[int] = []
        self.wrong_device: list[str] = []
        self.waiting: set[str] = set()
        self.fails: Callable[[int], None] = lambda rows: None
        self._default: dict[int, FakeStream] = {}
        self._lock, self._thread, self._process = threading.RLock(), threading.local(), os.getpid()

    def note(self, name: str, stream: FakeStream | None = None) -> None:
        assert os.getpid() == self._process, f"{name} in a process that is forked"
        with self._lock:
            self.operations.append((name, "" if stream is None else stream.name, self.current_device()))
            if stream is not None and stream.device != self.current_device():
                self.wrong_device.append(name)

    def finish(self, stream: FakeStream, copies: int) -> None:
        with self._lock:
            for copy in stream.copies[:copies]:
                copy()
            stream.copies[:copies] = [lambda: None] * len(stream.copies[:copies])  # events count them

    def current_device(self) -> int:
        return getattr(self._thread, "device", 0)

    @contextmanager
    def on_device(self, device: torch.device) -> Iterator[None]:
        before, self._thread.device = self.current_device(), device.index
        try:
            yield
        finally:
            self._thread.device = before

    def new_stream(self, device: torch.device) -> FakeStream:
        name = f"side {sum(name == 'new stream' for name, _, _ in self.operations)}"
        stream = FakeStream(self, name, device.index)
        self.note("new stream", stream)
        return stream

    def current_stream(self, device: torch.device) -> FakeStream:
        return self._default.setdefault(device.index, FakeStream(self, "default", device.index))

    @contextmanager
    def on_stream(self, stream: FakeStream) -> Iterator[None]:
        before, self._thread.stream = getattr(self._thread, "stream", None), stream
        try:
            yield
        finally:
            self._thread.stream = before

    def record_event(self, stream: FakeStream) -> FakeEvent:
        self.note("record event", stream)
        return FakeEvent(stream, len(stream.copies))

    def pinned(self, shape, dtype) -> Tensor:
        self.note("pin")
        return _nothing(torch.empty(shape, dtype=dtype))

    def copy_to_device(self, host: Tensor, device: torch.device) -> Tensor:
        if host.is_floating_point():
            self.copied.append(len(host))
            self.fails(len(host))
        x = _nothing(torch.empty_like(host))
        self._copy("upload", x, host)
        return x

    def copy_to_host(self, host: Tensor, x: Tensor) -> None:
        assert x.is_contiguous()
        self._copy("download", host, x)

    def _copy(self, name: str, target: Tensor, source: Tensor) -> None:
        stream = self._thread.stream
        self.note(name, stream)

        def copy() -> None:
            with torch.inference_mode():
                target.copy_(source)

        stream.copies.append(copy)

    def record_stream(self, x: Tensor, stream: FakeStream) -> None:
        self.note("keep for", stream)

    def free_bytes(self, device: torch.device) -> int:
        self.note("free bytes")
        return self.free

    def peak_bytes(self, device: torch.device, call: Callable[[], object]) -> int:
        self.note("peak bytes")
        call()
        return self.peak

    def empty_cache(self) -> None:
        self.note("empty cache")


def _nothing(x: Tensor) -> Tensor:
    """A tensor that holds no data yet."""
    return x.fill_(torch.nan if x.is_floating_point() else torch.iinfo(x.dtype).min // 4)


def engines_on(cuda: FakeCuda, device: str = "cuda:1") -> Callable[..., BatchEngine]:
    """In place of `make_engine`: engines that take the CPU for this CUDA device."""
    there = torch.device(device)

    def make(extractor, postprocessor, loader, _, dtype, batch_samples, limits):
        queue = CudaQueue(there, cuda)
        return BatchEngine(extractor, postprocessor, loader, there, dtype, batch_samples, limits, queue)

    return make
