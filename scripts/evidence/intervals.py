"""95 % intervals: of a mean over seeds, and of a difference over instruments that two methods were both tried on.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

LEVEL = 0.95
DRAWS = 10_000  # the ends of an interval move by a fiftieth of its length from one seed to another


class Interval(NamedTuple):
    """A value, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of independent runs and Student's interval; of a single run the interval is not a number."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        raise ValueError("expected at least one value, got none")
    if len(x) == 1:
        return Interval(float(x[0]), float("nan"), float("nan"))
    half = t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


def bootstrap(
    values: Sequence[float], draws: int = DRAWS, seed: int = 0, weights: Sequence[float] | None = None
) -> Interval:
    """Mean of a sample and its percentile interval: what the mean would be of other instruments of the same kind.

    Args:
        values: one an instrument (or speaker, or clip): [I].
        weights: of the values, such as an instrument's notes: [I]. They are drawn with the values.
        draws: samples of I instruments, with replacement.

    Percentiles of few values are a little narrow: of 33 that are exponentially distributed, the interval holds the true
    mean 88 times in 100, of 33 evenly distributed ones 94 times.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        raise ValueError("expected at least one value, got none")
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for n in _blocks(draws, len(x)):  # a few million indices at a time
        drawn = rng.integers(len(x), size=(n, len(x)))
        means.append((x * w)[drawn].sum(axis=1) / w[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.average(x, weights=w)), float(low), float(high))


def paired_bootstrap(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Mean of first - second and its interval, instruments drawn with replacement.

    Each seed's scores are averaged first, instrument by instrument: what differs is then how one instrument fares with
    the one method and the other, and instruments that are easy or hard for both cancel.

    Args:
        first, second: of each seed, instrument -> score; the same instruments everywhere.

    Raises:
        ValueError: the instruments differ, or there are none.
    """
    a, b = average(first), average(second)
    if a.keys() != b.keys():
        raise ValueError(f"expected scores of the same instruments, {sorted(a.keys() ^ b.keys())} have only one")
    return bootstrap([a[name] - b[name] for name in sorted(a)], draws, seed)


def average(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Instrument -> mean of its scores over seeds. Raises ValueError where a run lacks an instrument."""
    if not runs or any(run.keys() != runs[0].keys() for run in runs):
        raise ValueError("expected runs with the same instruments, at least one")
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}


def _blocks(draws: int, size: int) -> list[int]:
    """`draws` in parts of which each has at most about two million numbers."""
    block = max(1, 2_000_000 // size)
    return [min(block, draws - start) for start in range(0, draws, block)]
