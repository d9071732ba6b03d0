"""Frequency axes: LinearAxis, LogAxis and CentreAxis say in which row harmonic k of row f lies.

    p_k(f): the fractional row at k / n times the frequency of row f (n: the anchor)

Positions are computed on the host, in float64, once for each number of rows.

Source: Takeuchi et al., "Harmonic Lowering for Accelerating Harmonic Convolution for Audio Signals", Interspeech 2020
(linear and log axes); the axis over arbitrary centre frequencies is hlfeat's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hlfeat.errors import AxisError


def centre_axis(freqs: Tensor | np.ndarray | Sequence[float]) -> CentreAxis:
    """The axis over these centre frequencies [F], with the precision of their type."""
    if isinstance(freqs, Tensor):
        freqs = freqs.detach().cpu().numpy()
    values = np.asarray(freqs)
    if values.ndim != 1:
        raise AxisError(f"expected centre frequencies [F], got {list(values.shape)}")
    floating = np.issubdtype(values.dtype, np.floating)
    return CentreAxis.of(values.tolist(), float(np.finfo(values.dtype).eps) if floating else np.finfo(np.float64).eps)


EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class LinearAxis:
    """A linear axis from 0 Hz, as a spectrogram's: row f is f times the distance of rows, so p_k(f) = f k / n.

    Example:
        >>> from hlfeat import LinearAxis
        >>> LinearAxis().positions(n_rows=4, kernel=2, anchor=1).tolist()  # of harmonics 1 and 2
        [[0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 4.0, 6.0]]
    """

    def positions(self, n_rows: int, kernel: int, anchor: int) -> Tensor:
        """p_k(f) of every row and harmonic. Shape: -> float64 [kernel, n_rows]."""
        # integers first, one division: whole rows come out exactly
        return torch.arange(n_rows, dtype=torch.float64) * harmonics(kernel) / anchor

    def every(self, stride: int) -> LinearAxis:
        """The axis of every stride-th row: linear from 0 Hz too."""
        return self

    def describe(self) -> str:
        return "linear"


@dataclass(frozen=True)
class LogAxis:
    """A log axis: row f is f0 * radix^(f / scale), so p_k(f) = f + scale * log_radix(k / n).

    Args:
        scale: rows for a factor of `radix` in frequency; with radix 2, rows an octave.
        radix: above 1.

    Example:
        >>> from hlfeat import LogAxis
        >>> LogAxis(12, 2.0).positions(n_rows=3, kernel=2, anchor=1).tolist()  # harmonic 2 is an octave up
        [[0.0, 1.0, 2.0], [12.0, 13.0, 14.0]]
    """

    scale: float
    radix: float = math.e

    def positions(self, n_rows: int, kernel: int, anchor: int) -> Tensor:
        """p_k(f) of every row and harmonic. Shape: -> float64 [kernel, n_rows]."""
        shift = self.scale * torch.log(harmonics(kernel) / anchor) / math.log(self.radix)
        return torch.arange(n_rows, dtype=torch.float64) + shift

    def every(self, stride: int) -> LogAxis:
        """The axis of every stride-th row."""
        return LogAxis(self.scale / stride, self.radix)

    def describe(self) -> str:
        return f"log, {self.scale * math.log(2) / math.log(self.radix):g} rows an octave"


@dataclass(frozen=True)
class CentreAxis:
    """An axis over any increasing frequencies, such as a learned filterbank's: row f is freqs[f], linear in between.

    p_k(f) is the fractional row at which the frequency is freqs[f] k / n. `CentreAxis.of` and `centre_axis` take lists,
    arrays and tensors.

    Args:
        freqs: frequency of each row, in any unit.
        resolution: relative precision in which the frequencies were computed.

    Raises:
        AxisError: frequencies that do not increase (it names the rows that crossed), are negative or not finite.

    Example:
        >>> from hlfeat import CentreAxis
        >>> CentreAxis.of([100, 200, 400, 600]).positions(n_rows=4, kernel=3, anchor=1)[1:].tolist()
        [[1.0, 2.0, -1.0, -1.0], [1.5, 3.0, -1.0, -1.0]]
    """

    freqs: tuple[float, ...]
    resolution: float = EPS

    def __post_init__(self) -> None:
        c = self.freqs
        if not c or not all(map(math.isfinite, c)) or c[0] < 0:
            raise AxisError("expected centre frequencies that are finite and not negative")
        crossed = [i for i in range(len(c) - 1) if c[i + 1] <= c[i]]
        if crossed:
            pairs = ", ".join(f"{i} and {i + 1} ({c[i]:.6g}, {c[i + 1]:.6g})" for i in crossed[:5])
            more = f" and {len(crossed) - 5} more pairs" if len(crossed) > 5 else ""
            raise AxisError(f"expected increasing centre frequencies, but filters {pairs}{more} crossed")

    @classmethod
    def of(cls, freqs: Sequence[float], resolution: float = EPS) -> CentreAxis:
        return cls(tuple(float(f) for f in freqs), float(resolution))

    def positions(self, n_rows: int, kernel: int, anchor: int) -> Tensor:
        """p_k(f), or -1 where the harmonic lies outside the axis. Shape: -> float64 [kernel, n_rows]."""
        c, last = torch.tensor(self.freqs, dtype=torch.float64), len(self.freqs) - 1
        if n_rows != last + 1:
            raise AxisError(f"expected an input of {last + 1} rows, one a centre frequency, got {n_rows}")
        wanted = c * harmonics(kernel) / anchor  # [kernel, F]
        # A harmonic that falls on the first or last row must not miss it by the rounding of the frequencies.
        slack = 4 * self.resolution * self.freqs[-1]
        inside = (wanted >= c[0] - slack) & (wanted <= c[-1] + slack)
        above = torch.searchsorted(c, wanted).clamp(min(1, last), last)
        low = (above - 1).clamp(min=0)
        gap = (c[above] - c[low]).clamp(min=torch.finfo(torch.float64).tiny)  # a single row has no gap
        position = (low + (wanted - c[low]) / gap).clamp(0, last)
        return torch.where(inside, position, -1.0)

    def every(self, stride: int) -> CentreAxis:
        """The axis of every stride-th row."""
        return CentreAxis(self.freqs[::stride], self.resolution)

    def describe(self) -> str:
        return f"{len(self.freqs)} centre frequencies, {self.freqs[0]:.4g} to {self.freqs[-1]:.4g}"


Axis = LinearAxis | LogAxis | CentreAxis


def harmonics(kernel: int) -> Tensor:
    """1 ... kernel as a column: float64 [kernel, 1]."""
    return torch.arange(1, kernel + 1, dtype=torch.float64)[:, None]
