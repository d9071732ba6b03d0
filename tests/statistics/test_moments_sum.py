"""The sum of Moments in place: to the bit what adding them one by one gives."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hlfeat.statistics.moments import Moments, moments, no_moments
from hlfeat.statistics.moments_sum import MomentsSum

ARRAYS = ("mean", "m2", "min", "max")
SHAPES = [(1,), (7,), (1, 1), (2, 3), (1, 80), (2, 80)]


def check(result: Moments, expected: Moments) -> None:
    """The same bits, so that 0.0 is not -0.0."""
    assert result.frames == expected.frames
    for name in ARRAYS:
        a, b = getattr(result, name), getattr(expected, name)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name


def summed(start: Moments, parts: list[Moments]) -> Moments:
    total = MomentsSum(start)
    for part in parts:
        total.add(part)
    return total.total


@st.composite
def lists_of_moments(draw) -> list[Moments]:
    """Of clips of any lengths, 0 too, and values among which are equal ones, zeros of both signs, and large ones."""
    shape = draw(st.sampled_from(SHAPES))
    values = st.one_of(st.sampled_from([0.0, -0.0, 1.0, 1e-7, -3e38]), st.floats(-1e6, 1e6, width=32))
    clips = draw(st.lists(st.integers(0, 4), max_size=9))
    return [moments(draw(hnp.arrays(np.float32, (frames, *shape), elements=values))) for frames in clips]


@given(lists_of_moments())
def test_as_adding_one_by_one(parts):
    start = no_moments(*(parts[0].mean.shape if parts else (2, 3)))
    check(summed(start, parts), reduce(add, parts, start))
    if parts:
        check(summed(parts[0], parts[1:]), reduce(add, parts))


@pytest.mark.parametrize("shape", SHAPES)
def test_as_adding_many(shape):
    rng = np.random.default_rng(0)
    clips = [rng.normal(3, 2, (n, *shape)).astype(np.float32) for n in rng.integers(1, 200, 300)]
    for clip in clips[::3]:
        clip[rng.random(clip.shape) < 0.5] *= 0.0
    parts = [moments(clip) for clip in clips]
    check(summed(no_moments(*shape), parts), reduce(add, parts, no_moments(*shape)))


def test_neither_what_is_added_nor_a_total_changes_later():
    parts = [moments(np.full((3, 2), value, np.float32)) for value in (1, 5, 2)]
    before = [Moments(p.frames, *(getattr(p, name).copy() for name in ARRAYS)) for p in parts]
    total = MomentsSum(parts[0])
    total.add(parts[1])
    middle = total.total
    expected = parts[0] + parts[1]
    total.add(parts[2])
    check(middle, expected)
    for part, copy in zip(parts, before, strict=True):
        check(part, copy)
    parts[0].mean[:] = 99  # as a buffer that is used again
    check(total.total, before[0] + before[1] + before[2])
