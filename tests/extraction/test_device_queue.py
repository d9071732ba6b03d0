"""Copies to a device and back: which stream and which device does what, and what waits for what."""

from __future__ import annotations

import threading

import pytest
import torch

from hlfeat.extraction.device_queue import Cuda, CudaQueue, PlainQueue, make_queue
from tests.extraction.fake_cuda import FakeCuda

ROWS = [torch.arange(1.0, 4.0), torch.tensor([5.0])]


@pytest.fixture
def cuda():
    return FakeCuda()


def test_an_upload_runs_on_a_stream_of_its_own_and_the_computation_waits_for_it(cuda):
    x = CudaQueue(torch.device("cuda:1"), cuda).upload(ROWS)
    assert cuda.operations == [
        ("new stream", "side 0", 1),
        ("new stream", "side 1", 1),
        ("pin", "", 1),
        ("upload", "side 0", 1),
        ("wait for side 0", "default", 1),
        ("keep for", "default", 1),
    ]
    assert x.tolist() == [[1, 2, 3], [5, 0, 0]]


def test_a_download_waits_for_the_computation_and_is_there_after_done(cuda):
    queue = CudaQueue(torch.device("cuda:1"), cuda)
    queue.upload(ROWS)
    cuda.operations.clear()
    first = queue.download(torch.ones(2, 3))
    wait = queue.done()
    second = queue.download(torch.ones(1))
    assert cuda.operations == [
        ("pin", "", 1),
        ("wait for default", "side 1", 1),
        ("download", "side 1", 1),
        ("keep for", "side 1", 1),
        ("record event", "side 1", 1),
        ("pin", "", 1),
        ("wait for default", "side 1", 1),
        ("download", "side 1", 1),
        ("keep for", "side 1", 1),
    ]
    assert first.isnan().all()
    wait()
    assert first.tolist() == [[1] * 3] * 2
    assert second.isnan().all()  # was asked for later, and nobody has waited


def test_another_thread_waits_on_the_queues_device(cuda):
    queue = CudaQueue(torch.device("cuda:1"), cuda)
    queue.download(torch.ones(1))
    thread = threading.Thread(target=queue.done())
    thread.start()
    thread.join()
    assert cuda.operations[-1] == ("synchronize", "side 1", 1)
    assert cuda.current_device() == 0


def test_every_call_selects_the_device_and_restores_the_callers(cuda):
    queue = CudaQueue(torch.device("cuda:3"), cuda)
    with cuda.on_device(torch.device("cuda:2")):
        queue.upload(ROWS)
        queue.download(torch.ones(1))
        queue.done()()
        queue.free_bytes()
        queue.peak_bytes(lambda: None)
        queue.empty_cache()
        assert cuda.current_device() == 2
        with queue.computing():
            assert cuda.current_device() == 3
    assert {device for _, _, device in cuda.operations} == {3}
    assert cuda.wrong_device == []


def test_a_device_without_a_number_is_that_of_the_thread_that_uses_it_first(cuda):
    queue = CudaQueue(torch.device("cuda"), cuda)
    assert cuda.operations == []  # processes are forked once it was made
    with cuda.on_device(torch.device("cuda:2")):
        queue.upload(ROWS)
    queue.download(torch.ones(1))
    assert {device for _, _, device in cuda.operations} == {2}


def test_elsewhere_copies_are_plain():
    queue = make_queue(torch.device("cpu"))
    assert isinstance(queue, PlainQueue)
    x = queue.upload(ROWS)
    assert x.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert queue.download(x) is x
    assert queue.free_bytes() is None
    assert queue.float64
    assert not PlainQueue(torch.device("mps")).float64
    assert isinstance(make_queue(torch.device("cuda")), CudaQueue)


def test_torch_is_asked_about_the_device_by_name(monkeypatch):
    """No call of torch.cuda is left to the current device, and events are recorded on the stream that is given."""
    asked = []

    def noting(name, result=None):
        return lambda *args, **kwargs: (asked.append((name, args, kwargs)), result)[1]

    class Event:
        def __init__(self, **kwargs):
            asked.append(("Event", (), kwargs))

        def record(self, stream):
            asked.append(("record", (stream,), {}))

    for name in ("Stream", "current_stream", "stream", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, noting(name))
    figures = {"memory_reserved": 50, "memory_allocated": 20, "mem_get_info": (1000, 9999), "max_memory_allocated": 27}
    for name, result in figures.items():
        monkeypatch.setattr(torch.cuda, name, noting(name, result))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", noting("empty", torch.zeros(2)))
    cuda, device = Cuda(), torch.device("cuda:1")
    cuda.new_stream(device)
    cuda.current_stream(device)
    cuda.on_stream("stream")
    cuda.record_event("stream")
    cuda.pinned((2,), torch.float32)
    assert asked == [
        ("Stream", (device,), {}),
        ("current_stream", (device,), {}),
        ("stream", ("stream",), {}),
        ("Event", (), {"blocking": True}),
        ("record", ("stream",), {}),
        ("empty", ((2,),), {"dtype": torch.float32, "pin_memory": True}),
    ]
    asked.clear()
    assert cuda.free_bytes(device) == 1000 + 50 - 20
    assert cuda.peak_bytes(device, lambda: asked.append(("call", (device,), {}))) == 7
    assert [args for _, args, _ in asked] == [(device,)] * 7
    assert [name for name, _, _ in asked[-4:]] == [
        "reset_peak_memory_stats", "memory_allocated", "call", "max_memory_allocated"
    ]  # fmt: skip
