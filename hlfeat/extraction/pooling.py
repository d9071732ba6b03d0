"""Pooling over time, from frames to vectors: mean, mean and standard deviation, maximum, means over windows.

Every pool takes a clip's frames chunk by chunk and sums in float64. Clips of as many frames can be pooled together,
with an axis in front; each then has the vectors that it has alone, to the bit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from hlfeat.storage.times import window_seconds

Chunks = Iterable[np.ndarray]


def mean_pool(chunks: Chunks) -> Iterator[np.ndarray]:
    """Shape: [..., n, D] each -> one [..., 1, D]."""
    total: np.ndarray = np.zeros(1)
    frames = 0
    for y in chunks:
        total = total + y.sum(-2, dtype=np.float64)
        frames += y.shape[-2]
    yield (total / frames)[..., None, :]


def mean_std_pool(chunks: Chunks) -> Iterator[np.ndarray]:
    """Means, then standard deviations (of the population: those of a single frame are 0).

    Squares are summed about each chunk's own mean, and chunks are merged by the formula of Chan, Golub and LeVeque,
    "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979): nothing cancels, however far a
    mean is from zero.

    Shape: [..., n, D] each -> one [..., 1, 2 D].
    """
    mean: np.ndarray = np.zeros(1)
    squares: np.ndarray = np.zeros(1)
    frames = 0
    for y in chunks:
        n = y.shape[-2]
        chunk_mean = y.mean(-2, dtype=np.float64)
        weight, offset = n / (frames + n), chunk_mean - mean
        squares = squares + ((y - chunk_mean[..., None, :]) ** 2).sum(-2) + offset**2 * (frames * weight)
        mean = mean + offset * weight
        frames += n
    yield np.concatenate([mean, np.sqrt(squares / frames)], axis=-1)[..., None, :]


def max_pool(chunks: Chunks) -> Iterator[np.ndarray]:
    """Shape: [..., n, D] each -> one [..., 1, D]."""
    yield np.max([y.max(-2) for y in chunks], axis=0)[..., None, :]


POOLS: dict[str, Callable[[Chunks], Iterator[np.ndarray]]] = {
    "mean": mean_pool,
    "mean+std": mean_std_pool,
    "max": max_pool,
}


@dataclass(frozen=True)
class Windows:
    """Means over windows: window w has the frames n with w * step <= n < w * step + length, in exact arithmetic.

    There are as many windows as it takes for every frame to be in one. So the last window may have fewer frames than
    the others, but it has at least one frame that no other has.

    Args:
        length, step: in units of 1 / `unit` frames, with unit <= step <= length: then no window is empty, and no frame
            is left out.
    """

    length: int
    step: int
    unit: int

    @classmethod
    def of(cls, pool: str, rate: Fraction) -> Windows:
        """Parse `window:SECONDS` or `window:SECONDS,HOP`. `rate`: frames per second.

        Raises ValueError where these are shorter than the time from frame to frame.
        """
        window = window_seconds(pool)
        assert window is not None, pool
        length, step = window[0] * rate, window[1] * rate
        if step < 1:
            raise ValueError(f"expected windows and hops of at least the {float(1 / rate):g} s from frame to frame")
        unit = math.lcm(length.denominator, step.denominator)
        return cls(int(length * unit), int(step * unit), unit)

    def first(self, w: int) -> int:
        """The first frame of a window."""
        return -(-w * self.step // self.unit)

    def end(self, w: int) -> int:
        """The first frame after a window."""
        return -(-(w * self.step + self.length) // self.unit)

    def count(self, frames: int) -> int:
        """The number of windows of a clip: up to the first window that has the last frame."""
        return max(0, ((frames - 1) * self.unit - self.length) // self.step + 1) + 1

    def __call__(self, chunks: Chunks) -> Iterator[np.ndarray]:
        """Shape: [..., n, D] each -> [..., windows, D] each."""
        totals: deque[np.ndarray] = deque()  # of the windows that have begun but not ended
        done = seen = 0  # windows; frames
        for y in chunks:
            means, after = [], seen + y.shape[-2]
            for w, total in enumerate(totals, done):
                total += y[..., : self.end(w) - seen, :].sum(-2, dtype=np.float64)
            while (first := self.first(done + len(totals))) < after:
                end = self.end(done + len(totals))
                totals.append(y[..., first - seen : end - seen, :].sum(-2, dtype=np.float64))
            while self.end(done) <= after:
                means.append(totals.popleft() / (self.end(done) - self.first(done)))
                done += 1
            if means:
                yield np.stack(means, axis=-2)
            seen = after
        if done < self.count(seen):
            yield (totals.popleft() / (seen - self.first(done)))[..., None, :]
