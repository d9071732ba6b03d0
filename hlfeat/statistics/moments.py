"""Mean, variance, least and greatest of every channel and band, in one pass, merged from pieces.

Merging is the parallel formula of Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
Sample Variances", Stanford STAN-CS-79-773, 1979. Within a piece, sums are of the differences from its first frame d:
the sum of (d - mean d)^2 is sum d^2 - (sum d)^2 / n. As the first frame is one of the n, what is taken away is at most
n - 1 times what is left, so that a large offset costs no more than a factor n of float64's rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 16  # values whose differences, in float64, are made at once, so that they stay in the cache


@dataclass(frozen=True)
class Moments:
    """Of so many frames.

    Attributes:
        frames: 0 for those of nothing.
        mean, min, max: float64; `m2` is the sum of squared differences from the mean.

    Shape: mean, m2, min, max [channels, bands], or [dims] where features are pooled.
    """

    frames: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Of the population."""
        return self.m2 / self.frames

    @property
    def constant(self) -> bool:
        """Whether there are frames to compare, and no band changes from one to another."""
        return self.frames > 1 and bool((self.min == self.max).all())

    def __add__(self, other: Moments) -> Moments:
        """Those of both together."""
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
    """The moments of no frames, which change no others."""
    zero, most = np.zeros(shape), np.full(shape, np.inf)
    return Moments(0, zero, zero, most, -most)


def moments(features: np.ndarray) -> Moments:
    """Of features of any float type.

    Shape: features [frames, ...] -> [...].
    """
    frames, shape = len(features), features.shape[1:]
    if not frames:
        return no_moments(*shape)
    rows = features.reshape(frames, -1)
    if rows.dtype == np.float16:  # float32 is twenty times faster to compare
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
    """From the sums of the differences from the first frame and of their squares, the least and the greatest.

    Shape: float64 [...] each, all the same.
    """
    return Moments(frames, first + total / frames, np.maximum(squares - total**2 / frames, 0), low, high)
