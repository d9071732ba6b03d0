"""Frames to vectors: mean, mean and standard deviation, maximum, windows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Chunks = Iterable[np.ndarray]


def mean_pool(pieces: Chunks) -> Iterator[np.ndarray]:
    """Shape: [n, D] each -> one [1, D]."""
    total: np.ndarray = np.zeros(1)
    frames = 0
    for y in pieces:
        total = total + y.sum(0, dtype=np.float64)
        frames += len(y)
    yield (total / frames)[None]


def mean_std_pool(pieces: Chunks) -> Iterator[np.ndarray]:
    """Means, then standard deviations (of the population: those of a single frame are 0).

    Squares are summed about each piece's own mean, and pieces joined as by Chan, Golub and LeVeque (1979): nothing
    cancels, however far a mean is from zero.

    Shape: [n, D] each -> one [1, 2 D].
    """
    centre: np.ndarray = np.zeros(1)
    squares: np.ndarray = np.zeros(1)
    frames = 0
    for y in pieces:
        own = y.mean(0, dtype=np.float64)
        share, offset = len(y) / (frames + len(y)), own - centre
        squares = squares + ((y - own) ** 2).sum(0) + offset**2 * (frames * share)
        centre = centre + offset * share
        frames += len(y)
    yield np.concatenate([centre, np.sqrt(squares / frames)])[None]


def max_pool(pieces: Chunks) -> Iterator[np.ndarray]:
    """Shape: [n, D] each -> one [1, D]."""
    yield np.max([y.max(0) for y in pieces], axis=0)[None]


POOLS: dict[str, Callable[[Chunks], Iterator[np.ndarray]]] = {
    "mean": mean_pool,
    "mean+std": mean_std_pool,
    "max": max_pool,
}


@dataclass(frozen=True)
class Windows:
    """Means over windows: the w-th has the frames n with w * step <= n < w * step + length, in exact arithmetic.

    There are as many as it takes to have every frame in one. So the last may have fewer frames than others, but has one
    at least that no other has.

    Args:
        length, step: in `unit`ths of a frame, with unit <= step <= length: no window is empty, no frame is left out.
    """

    length: int
    step: int
    unit: int

    @classmethod
    def of(cls, pool: str, rate: Fraction) -> Windows:
        """Of `window:SECONDS` or `window:SECONDS,HOP`, and frames a second.

        Raises ValueError where these are shorter than from frame to frame.
        """
        seconds = [Fraction(s) for s in pool.removeprefix("window:").split(",")]
        length, step = seconds[0] * rate, seconds[-1] * rate
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
        """Windows of a clip: up to the first that has the last frame."""
        return max(0, ((frames - 1) * self.unit - self.length) // self.step + 1) + 1

    def __call__(self, pieces: Chunks) -> Iterator[np.ndarray]:
        """Shape: [n, D] each -> [windows, D] each."""
        totals: deque[np.ndarray] = deque()  # of the windows that have begun but not ended
        done = seen = 0  # windows; frames
        for y in pieces:
            means, after = [], seen + len(y)
            for w, total in enumerate(totals, done):
                total += y[: self.end(w) - seen].sum(0, dtype=np.float64)
            while (first := self.first(done + len(totals))) < after:
                totals.append(y[first - seen : self.end(done + len(totals)) - seen].sum(0, dtype=np.float64))
            while self.end(done) <= after:
                means.append(totals.popleft() / (self.end(done) - self.first(done)))
                done += 1
            if means:
                yield np.stack(means)
            seen = after
        if done < self.count(seen):
            yield (totals.popleft() / (seen - self.first(done)))[None]
