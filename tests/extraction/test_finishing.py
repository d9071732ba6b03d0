"""What is written of downloaded features, whether the device has made sums or not."""

from __future__ import annotations

import threading
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError
from hlfeat.extraction.engine import FeatureArrays
from hlfeat.extraction.events import ClipInfo, HeldFeatures
from hlfeat.extraction.finishing import Channel, ComputedBatch, Finisher, sums_of
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.statistics.moments import moments

INFO = ClipInfo(Clip("", ""), 16000, 1, 1 / 16000, 0, 0, 1, 1)
BAD = [None, torch.nan, torch.inf, -torch.inf, 7e4]  # the last is too large for float16


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("with_sums", "pool"), [(True, None), (False, None), (False, "mean")])
@given(
    frames=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    bad=st.lists(st.sampled_from(BAD), min_size=6, max_size=6),
)
def test_each_channel_is_checked_and_summed_as_by_itself(frames, bad, dtype, with_sums, pool):
    y = torch.randn(len(frames), max(frames), 2, 3, generator=torch.Generator().manual_seed(0)) + 5
    for i, n in enumerate(frames):
        y[i, n:] = torch.nan  # beyond the clip
        if bad[i] is not None:
            y[i, n // 2, 1, 2] = bad[i]
    arrays, post = FeatureArrays(np.dtype(dtype)), PostProcessor(2, 3, Fraction(100), None, pool)
    channels = [Channel(torch.tensor([0.5, -float(i)]), bool(i % 2), INFO) for i in range(len(frames))]
    converted = y if pool else y.to(arrays.torch_dtype)
    sums = sums_of(converted, torch.tensor(frames)) if with_sums else None
    with Finisher(arrays, post) as finisher:
        waits = finisher.begin(ComputedBatch(channels, converted, sums, frames, lambda: None))
        results = [wait() for wait in waits]
    for i, (result, n) in enumerate(zip(results, frames, strict=True)):
        if bad[i] is not None and not (bad[i] == 7e4 and (dtype == "float32" or (pool and n > 1))):
            assert isinstance(result, ClipError)
            with pytest.raises(ClipError) as want:
                arrays.make(post.whole(y[i, :n]), lambda i=i: max(0.5, float(i)))
            assert (result.code, str(result)) == (want.value.code, str(want.value))
            continue
        want = arrays.make(post.whole(y[i, :n]))
        assert isinstance(result, HeldFeatures)
        assert result.features.dtype == np.dtype(dtype)
        assert np.array_equal(result.features, want)
        assert result.silent == bool(i % 2)
        assert result.crc32 == zlib.crc32(want.tobytes())
        of_all = moments(want)
        np.testing.assert_allclose(result.moments.mean, of_all.mean, rtol=1e-9)
        np.testing.assert_allclose(result.moments.m2, of_all.m2, rtol=1e-9, atol=1e-12)
        assert (result.moments.min == of_all.min).all()
        assert (result.moments.max == of_all.max).all()


def test_a_batch_is_finished_once_it_is_on_the_host_in_another_thread():
    there, threads = threading.Event(), []
    host = torch.full((1, 2, 1, 1), torch.nan)

    def wait():
        threads.append(threading.current_thread().name)
        assert there.wait(30)
        host.fill_(3)

    with Finisher(FeatureArrays(np.dtype("float32")), PostProcessor(1, 1, Fraction(100))) as finisher:
        (result,) = finisher.begin(ComputedBatch([Channel(torch.ones(1), False, INFO)], host, None, [2], wait))
        there.set()
        assert result().features.tolist() == [[[3]], [[3]]]
    assert threads[0].startswith("finish")


def test_an_error_of_the_device_is_raised_where_features_are_wanted():
    def wait():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with Finisher(FeatureArrays(np.dtype("float32")), PostProcessor(1, 1, Fraction(100))) as finisher:
        batch = ComputedBatch([Channel(torch.ones(1), False, INFO)], torch.zeros(1, 1, 1, 1), None, [1], wait)
        (result,) = finisher.begin(batch)
        with pytest.raises(RuntimeError, match="illegal"):
            result()


def test_items_are_mapped_in_order_a_few_ahead():
    taken = []

    def items():
        for i in range(30):
            taken.append(i)
            yield i

    with Finisher(FeatureArrays(np.dtype("float32")), PostProcessor(1, 1, Fraction(100)), threads=3) as finisher:
        for n, y in enumerate(finisher.map(lambda x: x * x, items())):
            assert y == n * n
            assert len(taken) <= n + 5
