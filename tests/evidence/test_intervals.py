"""Intervals: cases that can be computed by hand, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.evidence.intervals import average, bootstrap, mean_interval, paired_bootstrap


def test_a_mean_of_seeds_by_hand():
    # deviation sqrt(2.5), Student's t for 4 degrees of freedom 2.776: 2.776 * sqrt(2.5 / 5) = 1.963
    value, low, high = mean_interval([1, 2, 3, 4, 5])
    assert (value, low, high) == pytest.approx((3, 3 - 1.963, 3 + 1.963), abs=1e-3)


def test_one_seed_has_no_interval():
    value, low, high = mean_interval([0.5])
    assert value == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_two_values_have_three_means():
    # means of draws are 0, 1/2 and 1, the outer ones with a quarter each
    assert bootstrap([0, 1]) == (0.5, 0, 1)
    assert bootstrap([0.25] * 7) == (0.25, 0.25, 0.25)


def test_pairs_cancel_what_is_hard_for_both():
    rng = np.random.default_rng(1)
    hard = {f"instrument {i}": x for i, x in enumerate(rng.uniform(0, 1, 30))}
    better = {name: x + rng.normal(0.05, 0.01) for name, x in hard.items()}
    value, low, high = paired_bootstrap([better], [hard])
    assert 0.04 < low < value < high < 0.06  # although the scores differ by 0.3 among instruments
    assert paired_bootstrap([hard], [better]) == pytest.approx((-value, -high, -low), abs=1e-3)


def test_seeds_are_averaged_first():
    runs = [{"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}]
    assert average(runs) == {"a": 0.5, "b": 1.0}
    assert paired_bootstrap(runs, [{"b": 0.0, "a": 0.0}]).value == 0.75


def test_other_instruments_are_refused():
    with pytest.raises(ValueError, match=r"\['b', 'c'\]"):
        paired_bootstrap([{"a": 1, "b": 1}], [{"a": 1, "c": 1}])
    with pytest.raises(ValueError, match="same instruments"):
        average([{"a": 1}, {"b": 1}])
    for empty in (lambda: average([]), lambda: bootstrap([]), lambda: mean_interval([])):
        with pytest.raises(ValueError, match="at least one"):
            empty()


def test_intervals_hold_the_truth_19_times_in_20():
    """Of 400 samples, 380 +- 4.4; percentiles of 33 values are a little narrow."""
    rng = np.random.default_rng(0)
    samples = rng.uniform(0, 2, (400, 33))
    hits = sum(low <= 1 <= high for _, low, high in (bootstrap(s, draws=1000) for s in samples))
    assert 0.92 <= hits / 400 <= 0.97
    samples = rng.normal(1.0, 1.0, (400, 10))
    hits = sum(low <= 1 <= high for _, low, high in map(mean_interval, samples))
    assert 0.92 <= hits / 400 <= 0.98
