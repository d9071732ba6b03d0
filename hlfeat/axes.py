"""Frequency axes: where harmonic k of a row lies. Host-side numpy; positions are made once a shape, not once a call.

    p_k(f): the fractional row at k / n times the frequency of row f (n: the anchor)

Source: Takeuchi et al., "Harmonic Lowering for Accelerating Harmonic Convolution for Audio Signals", Interspeech 2020
(linear and log axes); the axis over arbitrary centre frequencies is hlfeat's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlfeat.errors import HlfeatError


class AxisError(HlfeatError, ValueError):
    """A frequency axis that harmonics cannot be found on."""


@dataclass(frozen=True)
class LinearAxis:
    """Row f is f * bin_hz: p_k(f) = f k / n."""

    def positions(self, n_rows: int, kernel: int, anchor: int) -> np.ndarray:
        """Shape: -> float64 [kernel, n_rows]."""
        k = np.arange(1, kernel + 1)[:, None]
        return np.arange(n_rows) * k / anchor  # integers first, one division: whole rows come out exactly

    def every(self, stride: int) -> LinearAxis:
        """The axis of every stride-th row."""
        return self

    def describe(self) -> str:
        return "linear"


@dataclass(frozen=True)
class LogAxis:
    """Row f is f0 * radix^(f / scale): p_k(f) = f + scale * log_radix(k / n).

    With radix 2, `scale` is the number of bins per octave.
    """

    scale: float
    radix: float = math.e

    def positions(self, n_rows: int, kernel: int, anchor: int) -> np.ndarray:
        """Shape: -> float64 [kernel, n_rows]."""
        k = np.arange(1, kernel + 1)[:, None]
        shift = self.scale * np.log(k / anchor) / math.log(self.radix)
        # An octave of 12 bins is 12 rows, not 11.999999999999998: rounding must not push a row over the axis' end.
        whole = np.round(shift)
        shift = np.where(np.abs(shift - whole) < 1e-9, whole, shift)
        return np.arange(n_rows) + shift

    def every(self, stride: int) -> LogAxis:
        """The axis of every stride-th row."""
        return LogAxis(self.scale / stride, self.radix)

    def describe(self) -> str:
        return f"log, {self.scale * math.log(2) / math.log(self.radix):g} rows an octave"


@dataclass(frozen=True)
class CentreAxis:
    """Row f is freqs[f], piecewise linear in between: p_k(f) is the index at which the frequency is freqs[f] * k / n.

    Raises AxisError where frequencies do not increase, naming the rows that crossed.
    """

    freqs: tuple[float, ...]
    resolution: float = np.finfo(np.float64).eps  # relative precision the frequencies were computed in

    def __post_init__(self) -> None:
        c = np.asarray(self.freqs, dtype=np.float64)
        if c.size == 0 or not np.isfinite(c).all() or c[0] < 0:
            raise AxisError("expected centre frequencies that are finite and not negative")
        crossed = np.flatnonzero(np.diff(c) <= 0)
        if len(crossed):
            pairs = ", ".join(f"{i} and {i + 1} ({c[i]:.6g}, {c[i + 1]:.6g})" for i in crossed[:5])
            more = f" and {len(crossed) - 5} more pairs" if len(crossed) > 5 else ""
            raise AxisError(f"expected increasing centre frequencies, but filters {pairs}{more} crossed")

    @classmethod
    def of(cls, freqs: Sequence[float], resolution: float = np.finfo(np.float64).eps) -> CentreAxis:
        return cls(tuple(float(f) for f in freqs), float(resolution))

    def positions(self, n_rows: int, kernel: int, anchor: int) -> np.ndarray:
        """Shape: -> float64 [kernel, n_rows]; -1 where there is no such row."""
        c = np.asarray(self.freqs, dtype=np.float64)
        if n_rows != len(c):
            raise AxisError(f"expected an input of {len(c)} rows, one a centre frequency, got {n_rows}")
        wanted = c * np.arange(1, kernel + 1)[:, None] / anchor  # [kernel, F]
        # A harmonic that falls on the first or last row must not miss it by the rounding of the frequencies.
        slack = 4 * self.resolution * c[-1]
        inside = (wanted >= c[0] - slack) & (wanted <= c[-1] + slack)
        return np.where(inside, np.interp(wanted, c, np.arange(len(c), dtype=np.float64)), -1.0)

    def every(self, stride: int) -> CentreAxis:
        """The axis of every stride-th row."""
        return CentreAxis(self.freqs[::stride], self.resolution)

    def describe(self) -> str:
        return f"{len(self.freqs)} centre frequencies, {self.freqs[0]:.4g} to {self.freqs[-1]:.4g}"


Axis = LinearAxis | LogAxis | CentreAxis
