"""Mean, variance, minimum and maximum of every channel and band, in one pass, merged from chunks.

Merging is the parallel formula of Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
Sample Variances", Stanford STAN-CS-79-773, 1979. Within a chunk of n frames, sums are taken of the differences d from
its first frame: sum (d - mean d)^2 = sum d^2 - (sum d)^2 / n. As the first frame is one of the n, the subtrahend is at
most n - 1 times the result. So a large offset costs at most a factor n of float64's rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 16  # values at once, so that their differences in float64 stay in the cache


@dataclass(frozen=True)
class Moments:
    """Moments of some frames; of none, they change no others when added.

    Attributes:
        frames: their number.
        mean, min, max: float64; of no frames, min is infinite and max minus infinity.
        m2: the sum of squared differences from the mean, float64.

    Shape: mean, m2, min, max [channels, bands], or [dims] where features are pooled.
    """

    frames: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Variance of the population: m2 divided by the number of frames."""
        return self.m2 / self.frames

    @property
    def constant(self) -> bool:
        """Whether there are two frames or more, all of them the same."""
        if self.frames < 2 or self.min.item(0) != self.max.item(0):  # of most clips, the first value changes already
            return False
        return bool((self.min == self.max).all())

    def __add__(self, other: Moments) -> Moments:
        """Moments of the frames of both."""
        if not (self.frames and other.frames):
            return self if self.frames else other
        frames = self.frames + other.frames
        delta = other.mean - self.mean
        return Moments(
            frames,
            self.mean + delta * (other.frames / frames),
            self.m2 + other.m2 + delta**2 * (self.frames * other.frames / frames),
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
        )


def no_moments(*shape: int) -> Moments:
    """Moments of no frames of this shape."""
    zero, infinity = np.zeros(shape), np.full(shape, np.inf)
    return Moments(0, zero, zero, infinity, -infinity)


def moments(features: np.ndarray) -> Moments:
    """Moments of features of any float type.

    Shape: features [frames, ...] -> [...].
    """
    frames, shape = len(features), features.shape[1:]
    if not frames:
        return no_moments(*shape)
    rows = features.reshape(frames, -1)
    if rows.dtype == np.float16:  # comparing float32 is twenty times faster
        rows = rows.astype(np.float32)
    first = rows[0].astype(np.float64)
    total, squares = np.zeros_like(first), np.zeros_like(first)
    step = max(1, BLOCK // max(1, rows.shape[1]))
    for start in range(0, frames, step):
        d = np.subtract(rows[start : start + step], first)
        total += np.add.reduce(d, axis=0)
        squares += np.add.reduce(np.multiply(d, d, out=d), axis=0)
    sums = (first, total, squares, rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64))
    return from_sums(frames, *(s.reshape(shape) for s in sums))


def from_sums(
    frames: int, first: np.ndarray, total: np.ndarray, squares: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Moments:
    """Moments from sums.

    Args:
        frames: their number, from 1.
        first: the first frame.
        total, squares: sums over frames of the differences from `first`, and of their squares.
        low, high: minimum and maximum.

    Shape: float64 [...] each, all the same.
    """
    return Moments(frames, first + total / frames, np.maximum(squares - total**2 / frames, 0), low, high)
