"""The sum of many Moments, made in place: a shard has thousands of clips, and adding two Moments makes ten arrays."""

from __future__ import annotations

import numpy as np

from hlfeat.statistics.moments import Moments


class MomentsSum:
    """Adds Moments one by one. The total is, to the bit, what `+` gives in the same order.

    Args:
        start: what the others are added to. Its arrays are copied, as are those of the others.

    Attributes:
        frames: of all that have been added.
    """

    def __init__(self, start: Moments) -> None:
        self._delta, self._term, self._unused = (np.empty_like(start.mean, dtype=np.float64) for _ in range(3))
        self._begin(start)

    def _begin(self, first: Moments) -> None:
        self.frames = first.frames
        self._mean, self._m2, self._min, self._max = (
            np.array(values, dtype=np.float64) for values in (first.mean, first.m2, first.min, first.max)
        )

    def add(self, other: Moments) -> None:
        """Add the moments of other frames. The operations and their order are those of `Moments.__add__`."""
        if not other.frames:
            return
        if not self.frames:
            self._begin(other)
            return
        frames = self.frames + other.frames
        mean, m2, delta, term = self._mean, self._m2, self._delta, self._term
        np.subtract(other.mean, mean, out=delta)
        np.multiply(delta, other.frames / frames, out=term)
        np.add(mean, term, out=mean)
        np.add(m2, other.m2, out=m2)
        np.multiply(delta, delta, out=delta)
        np.multiply(delta, self.frames * other.frames / frames, out=delta)
        np.add(m2, delta, out=m2)
        # Into another array: which of 0.0 and -0.0 is the minimum may depend on whether numpy works in place.
        low, high = self._min, self._max
        self._min = np.minimum(low, other.min, out=self._unused)
        self._max = np.maximum(high, other.max, out=low)
        self._unused = high
        self.frames = frames

    @property
    def total(self) -> Moments:
        """The moments of all frames so far."""
        return Moments(self.frames, self._mean.copy(), self._m2.copy(), self._min.copy(), self._max.copy())
