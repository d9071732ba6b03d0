"""Moments: equal to numpy's in float64 however the frames are cut and merged."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.extraction.finishing import sums_of
from hlfeat.statistics import moments as module
from hlfeat.statistics.moments import Moments, from_sums, moments, no_moments


def check(result: Moments, x: np.ndarray, rtol: float = 1e-9) -> None:
    """Against numpy's two passes. The variance may be off by what rounding the squared spread in float64 makes."""
    exact = x.astype(np.float64)
    spread = np.ptp(exact, axis=0) ** 2
    assert result.frames == len(x)
    assert all(
        a.dtype == np.float64 and a.shape == x.shape[1:] for a in (result.mean, result.m2, result.min, result.max)
    )
    np.testing.assert_array_less(abs(result.mean - exact.mean(0)), 1e-13 * abs(exact).max(0) + 1e-300)
    np.testing.assert_array_less(abs(result.variance - exact.var(0)), rtol * exact.var(0) + 1e-15 * spread + 1e-300)
    np.testing.assert_array_equal(result.min, exact.min(0))
    np.testing.assert_array_equal(result.max, exact.max(0))


def noise(seed: int, frames: int, offset: float, scale: float, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (offset + scale * rng.normal(size=(frames, 2, 3))).astype(dtype)


@given(
    cuts=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    offset=st.sampled_from([0, 1, -1e6, 1e6, 1e30]),
    scale=st.sampled_from([0, 1e-3, 1, 1e6]),
    seed=st.integers(0, 9),
)
def test_chunks_merged_in_any_order_are_the_whole(cuts, offset, scale, seed):
    x = noise(seed, sum(cuts), offset, scale)
    chunks = [moments(chunk) for chunk in np.split(x, np.cumsum(cuts)[:-1])]
    check(reduce(add, chunks), x)
    check(reduce(add, reversed(chunks), no_moments(2, 3)), x)
    half = len(chunks) // 2
    check(reduce(add, chunks[:half], no_moments(2, 3)) + (reduce(add, chunks[half:]) + no_moments(2, 3)), x)


@pytest.mark.parametrize("block", [1, 60, 1 << 16])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_of_a_long_chunk(monkeypatch, block, dtype):
    monkeypatch.setattr(module, "BLOCK", block)
    check(moments(noise(1, 500, 20, 3, dtype)), noise(1, 500, 20, 3, dtype))


def test_a_large_offset_does_not_hurt_the_variance():
    """Sums of squares would leave nothing of it. In 300 chunks, each mean is rounded to 1e-10."""
    x = noise(0, 3000, 1e6, 1.0)
    want = x.astype(np.float64).var(0)
    np.testing.assert_allclose(moments(x).variance, want, rtol=1e-11)
    np.testing.assert_allclose(reduce(add, map(moments, np.split(x, 300))).variance, want, rtol=1e-9)


def test_a_first_frame_unlike_the_others_is_the_worst_case():
    x = noise(0, 5000, 0, 1e-3)
    x[0] = 1e6
    check(moments(x), x)


@given(frames=st.lists(st.integers(1, 30), min_size=1, max_size=6), dtype=st.sampled_from(["float16", "float32"]))
def test_sums_made_on_a_device_are_those_of_the_valid_frames(frames, dtype):
    batch = np.full((len(frames), max(frames), 2, 3), 7e4 if dtype == "float32" else 6e4, dtype)
    batch[:, :, 0] *= -1  # on either side of all that is valid
    clips = [noise(i, n, 100, 2, dtype) for i, n in enumerate(frames)]
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    sums = sums_of(torch.from_numpy(batch), torch.tensor(frames))
    for n, sums_of_clip, clip in zip(frames, sums.numpy(), clips, strict=True):
        check(from_sums(n, *sums_of_clip), clip)


def test_constant():
    x = np.ones((4, 2, 3), np.float32)
    assert moments(x).constant
    assert not moments(x[:1]).constant
    assert not no_moments(2, 3).constant
    x[2, 1, 1] += 1e-6
    assert not moments(x).constant
    assert (moments(np.full((1000, 2, 3), 1 / 3, np.float32)).m2 == 0).all()
