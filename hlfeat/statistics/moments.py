"""Mean, variance, minimum and maximum of every channel and band, in one pass, merged from chunks.

Merging is the parallel formula of Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
Sample Variances", Stanford STAN-CS-79-773, 1979. Within a chunk of n frames, sums are taken of the differences d from
its first frame: sum (d - mean d)^2 = sum d^2 - (sum d)^2 / n. As the first frame is one of the n, the subtrahend is at
most n - 1 times the result. So a large offset costs at most a factor n of float64's rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Values at once, whose differences in float64 are held: of one clip, and of several together. Results depend on the
# first, as it decides in which order frames are summed.
BLOCK, CLIPS_BLOCK = 1 << 16, 1 << 18


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
    return moments_of_each(features[None])[0]


def moments_of_each(features: np.ndarray) -> list[Moments]:
    """Moments of every clip of several that have the same number of frames: to the bit those of the clip alone.

    Shape: features [clips, frames, ...] -> [...] of each clip.
    """
    clips, frames, *shape = features.shape
    if not frames:
        return [no_moments(*shape)] * clips
    rows = features.reshape(clips, frames, -1)
    if rows.dtype == np.float16:  # comparing float32 is twenty times faster
        rows = rows.astype(np.float32)
    some = max(1, CLIPS_BLOCK // max(1, frames * rows.shape[2]))
    results: list[Moments] = []
    for i in range(0, clips, some):
        first, total, squares, low, high = (s.reshape(-1, *shape) for s in _sums(rows[i : i + some]))
        parts = zip(*_mean_and_m2(frames, first, total, squares), low, high, strict=True)
        results += [Moments(frames, *part) for part in parts]
    return results


def _sums(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """First frame, sums of differences and of their squares, minimum and maximum of each clip, as `from_sums` has them.

    Sums of several clips are made together but never shared: numpy adds frame after frame, for each value by itself.

    Shape: rows [clips, frames, D] -> float64 [clips, D] each.
    """
    clips, frames, size = rows.shape
    first = rows[:, :1].astype(np.float64)
    total, squares = np.zeros((clips, size)), np.zeros((clips, size))
    step = max(1, BLOCK // max(1, size))
    for start in range(0, frames, step):
        d = rows[:, start : start + step].astype(np.float64)
        np.subtract(d, first, out=d)
        total += np.add.reduce(d, axis=1)
        squares += np.add.reduce(np.multiply(d, d, out=d), axis=1)
    low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
    return first[:, 0], total, squares, low, high


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
    return Moments(frames, *_mean_and_m2(frames, first, total, squares), low, high)


def _mean_and_m2(
    frames: int, first: np.ndarray, total: np.ndarray, squares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return first + total / frames, np.maximum(squares - total**2 / frames, 0)
