"""How large batches are: what memory allows, and smaller ones once it did not suffice."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.errors import ClipError
from hlfeat.extraction.batch_size import BatchSize, find_batch_samples
from hlfeat.extraction.device_queue import CudaQueue, PlainQueue
from tests.extraction.fake_cuda import FakeCuda

CPU = torch.device("cpu")
RATE = 100
MIB = 1 << 20


def found(free: int, peak: int) -> float:
    """Seconds of a batch, with so much free memory, and so much for the trial of 16 s."""
    queue = CudaQueue(torch.device("cuda:1"), FakeCuda(free, peak))
    return find_batch_samples(queue, RATE, queue.upload) / RATE


def test_a_batch_takes_half_of_the_free_memory_within_bounds():
    assert found(200 * MIB, 16 * MIB) == 100
    assert found(200 * MIB, 32 * MIB) == 50
    assert found(1 << 40, 16 * MIB) == 512
    assert found(10 * MIB, 16 * MIB) == 8
    assert found(10 * MIB, 0) == 512  # nothing was allocated: the allocator had it


def test_without_figures_of_memory_a_batch_is_of_64_s():
    assert find_batch_samples(PlainQueue(CPU), RATE, lambda rows: pytest.fail("computed")) == 64 * RATE


def test_a_trial_that_does_not_fit_makes_the_smallest_batches():
    cuda = FakeCuda(free=1 << 40)
    queue = CudaQueue(torch.device("cuda:1"), cuda)

    def compute(rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert find_batch_samples(queue, RATE, compute) == 8 * RATE
    assert cuda.operations[-1][0] == "empty cache"


def test_the_trials_first_run_does_not_count():
    runs = []
    queue = CudaQueue(torch.device("cuda:1"), FakeCuda())
    queue.peak_bytes = lambda call: (call(), len(runs) * 16 * MIB)[1]
    queue.free_bytes = lambda: 400 * MIB
    assert find_batch_samples(queue, RATE, lambda rows: runs.append([len(row) for row in rows])) == 100 * RATE
    assert runs == [[4 * RATE] * 4] * 2


def size_of(samples: int | None, find=lambda: pytest.fail("asked")) -> tuple[BatchSize, FakeCuda]:
    cuda = FakeCuda()
    device = torch.device("cuda:1")
    return BatchSize(samples, find, CudaQueue(device, cuda), device), cuda


def test_a_size_that_was_given_is_not_looked_for():
    assert size_of(7)[0].samples == 7
    asked = []
    size, _ = size_of(None, lambda: asked.append(1) or 9)
    assert asked == []
    assert (size.samples, size.samples, asked) == (9, 9, [1])


@given(
    batches=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), max_size=12),
    room=st.lists(st.integers(5, 60), min_size=1, max_size=5),
)
def test_halves_until_it_fits_and_a_size_that_failed_is_not_tried_again(batches, room):
    """Memory changes: now this fits, now that; a single item always fits."""
    size, cuda = size_of(50)
    tried, failed = [], []

    def compute(items):
        samples = len(items) * max(items)
        tried.append((len(items), samples, list(failed)))
        if len(items) > 1 and samples > room[len(tried) % len(room)]:
            failed.append(samples)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [-item for item in items]

    for items in batches:
        items.sort(reverse=True)
        assert size.compute(items, lambda item: item, compute, "clip") == [-item for item in items]
    for n, samples, before in tried:
        assert n == 1 or all(samples < earlier for earlier in before)
    assert [name for name, _, _ in cuda.operations if name == "empty cache"] == ["empty cache"] * len(failed)


def test_a_single_item_that_does_not_fit_fails_alone():
    size, _ = size_of(100)

    def compute(items):
        if 9 in items:
            raise RuntimeError("CUDA error: out of memory")
        return items

    results = size.compute([9, 3, 2], lambda item: item, compute, "clip")
    assert results[1:] == [3, 2]
    assert isinstance(results[0], ClipError)
    assert (results[0].code, str(results[0])) == ("out-of-memory", "too long for the memory of cuda:1")


def test_the_cache_is_emptied_when_nothing_holds_the_failed_frames_tensors(monkeypatch):
    size, cuda = size_of(100)
    tensors = []

    def compute(items):
        local = torch.zeros(3)
        if len(items) > 1:
            tensors.append(weakref.ref(local))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return items

    alive = []
    monkeypatch.setattr(cuda, "empty_cache", lambda: alive.extend(ref() is not None for ref in tensors))
    assert size.compute([1, 2, 3, 4], lambda item: item, compute, "clip") == [1, 2, 3, 4]
    assert alive == [False] + [False] * 2  # [3, 4] is larger than [1, 2], and is not tried


def test_another_error_is_not_taken_for_it():
    size, _ = size_of(100)
    tried = []

    def compute(items):
        tried.append(len(items))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        size.compute([1, 2], lambda item: item, compute, "clip")
    assert tried == [2]


def test_what_may_be_another_fault_is_tried_with_less_and_raised_at_last():
    size, _ = size_of(100)
    tried = []

    def compute(items):
        tried.append(len(items))
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    with pytest.raises(RuntimeError, match="unable to find an engine"):
        size.compute([1, 2, 3, 4], lambda item: item, compute, "clip")
    assert tried == [4, 2, 1]
