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
from itertools import pairwise

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
    """A linear axis: row f is f + first times the distance of rows, so p_k(f) = (f + first) k / n - first.

    Args:
        first: the frequency of row 0, in distances of rows: 0 for a spectrogram.

    Raises:
        AxisError: a frequency that is negative or not finite.

    Example:
        >>> from hlfeat import LinearAxis
        >>> LinearAxis().positions(n_rows=4, kernel=2, anchor=1).tolist()  # of harmonics 1 and 2
        [[0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 4.0, 6.0]]
        >>> LinearAxis().pooled(2)  # rows 0 and 1, 2 and 3, ...
        LinearAxis(first=0.25)
    """

    first: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.first) and self.first >= 0):
            raise AxisError(f"first: expected a finite number from 0, got {self.first}")

    def positions(self, n_rows: int, kernel: int, anchor: int) -> Tensor:
        """p_k(f) of every row and harmonic. Shape: -> float64 [kernel, n_rows]."""
        # integers first, one division: whole rows come out exactly
        return (torch.arange(n_rows, dtype=torch.float64) + self.first) * harmonics(kernel) / anchor - self.first

    @property
    def order(self) -> None:
        """Rows are in the order of their frequency."""
        return None

    def every(self, stride: int) -> LinearAxis:
        """The axis of every stride-th row, from the first."""
        return LinearAxis(self.first / stride)

    def pooled(self, size: int) -> LinearAxis:
        """The axis after pooling over `size` rows at a time: a row stands for the mean of their frequencies."""
        return LinearAxis((self.first + (size - 1) / 2) / size)

    def describe(self) -> str:
        """The axis in a few words, for messages and tables."""
        return f"linear from {self.first:g} rows up" if self.first else "linear"


@dataclass(frozen=True)
class LogAxis:
    """A log axis: row f is f0 * radix^(f / scale), so p_k(f) = f + scale * log_radix(k / n).

    Args:
        scale: rows for a factor of `radix` in frequency; with radix 2, rows an octave.
        radix: above 1.

    Raises:
        AxisError: a scale of 0 or below, a radix of 1 or below, or one that is not finite.

    Example:
        >>> from hlfeat import LogAxis
        >>> LogAxis(12, 2.0).positions(n_rows=3, kernel=2, anchor=1).tolist()  # harmonic 2 is an octave up
        [[0.0, 1.0, 2.0], [12.0, 13.0, 14.0]]
    """

    scale: float
    radix: float = math.e

    def __post_init__(self) -> None:
        for name, value, above in (("scale", self.scale, 0), ("radix", self.radix, 1)):
            if not (math.isfinite(value) and value > above):
                raise AxisError(f"{name}: expected a finite number above {above}, got {value}")

    def positions(self, n_rows: int, kernel: int, anchor: int) -> Tensor:
        """p_k(f) of every row and harmonic. Shape: -> float64 [kernel, n_rows]."""
        shift = self.scale * torch.log(harmonics(kernel) / anchor) / math.log(self.radix)
        return torch.arange(n_rows, dtype=torch.float64) + shift

    @property
    def order(self) -> None:
        """Rows are in the order of their frequency."""
        return None

    def every(self, stride: int) -> LogAxis:
        """The axis of every stride-th row."""
        return LogAxis(self.scale / stride, self.radix)

    def pooled(self, size: int) -> LogAxis:
        """The axis after pooling over `size` rows at a time: a row stands for the mean of their log frequencies."""
        return self.every(size)  # where it begins has no influence on where harmonics lie

    def describe(self) -> str:
        """The axis in a few words, for messages and tables."""
        return f"log, {self.scale * math.log(2) / math.log(self.radix):g} rows an octave"


@dataclass(frozen=True)
class CentreAxis:
    """An axis over any frequencies, such as a learned filterbank's: row f is freqs[f], linear between neighbours.

    The frequencies may be in any order, as training lets filters cross. Positions are ranks: 1.5 is half-way between
    the second and the third lowest frequency, whose rows are `order[1]` and `order[2]`. `CentreAxis.of` and
    `centre_axis` take lists, arrays and tensors.

    Args:
        freqs: frequency of each row, in any unit.
        resolution: relative precision in which the frequencies were computed.

    Raises:
        AxisError: frequencies that are negative or not finite.

    Example:
        >>> from hlfeat import CentreAxis
        >>> CentreAxis.of([100, 200, 400, 600]).positions(n_rows=4, kernel=3, anchor=1)[1:].tolist()
        [[1.0, 2.0, -1.0, -1.0], [1.5, 3.0, -1.0, -1.0]]
        >>> crossed = CentreAxis.of([100, 400, 200])  # 200 is the second lowest, and lies in row 2
        >>> crossed.positions(n_rows=3, kernel=2, anchor=1)[1].tolist(), crossed.order
        ([1.0, -1.0, 2.0], [0, 2, 1])
    """

    freqs: tuple[float, ...]
    resolution: float = EPS

    def __post_init__(self) -> None:
        c = self.freqs
        if not c or not all(map(math.isfinite, c)) or min(c) < 0:
            raise AxisError("expected centre frequencies that are finite and not negative")

    @classmethod
    def of(cls, freqs: Sequence[float], resolution: float = EPS) -> CentreAxis:
        """The axis over a list, an array or a tensor of frequencies [F]."""
        return cls(tuple(float(f) for f in freqs), float(resolution))

    @property
    def order(self) -> list[int] | None:
        """Rows by increasing frequency, those of equal frequency in their own order; None: all are in order."""
        c = self.freqs
        if all(low <= high for low, high in pairwise(c)):
            return None
        return sorted(range(len(c)), key=c.__getitem__)

    def positions(self, n_rows: int, kernel: int, anchor: int) -> Tensor:
        """p_k(f) among the sorted frequencies, or -1 where the harmonic lies outside. Shape: float64 [kernel, n_rows].

        Harmonic k = anchor of a row is the row itself, also where another has the same frequency.
        """
        own, last = torch.tensor(self.freqs, dtype=torch.float64), len(self.freqs) - 1
        if n_rows != last + 1:
            raise AxisError(f"expected an input of {last + 1} rows, one a centre frequency, got {n_rows}")
        ranks = torch.arange(n_rows)
        c = own
        if self.order is not None:
            order = torch.tensor(self.order)
            c, ranks = own[order], order.argsort()
        wanted = own * harmonics(kernel) / anchor  # [kernel, F]
        # A harmonic that falls on the lowest or highest row must not miss it by the rounding of the frequencies.
        slack = 4 * self.resolution * c[-1]
        inside = (wanted >= c[0] - slack) & (wanted <= c[-1] + slack)
        above = torch.searchsorted(c, wanted).clamp(min(1, last), last)
        low = (above - 1).clamp(min=0)
        gap = (c[above] - c[low]).clamp(min=torch.finfo(torch.float64).tiny)  # a single row has no gap
        position = (low + (wanted - c[low]) / gap).clamp(0, last)
        if anchor <= kernel:
            position[anchor - 1] = ranks.double()
        return torch.where(inside, position, -1.0)

    def every(self, stride: int) -> CentreAxis:
        """The axis of every stride-th row."""
        return CentreAxis(self.freqs[::stride], self.resolution)

    def pooled(self, size: int) -> CentreAxis:
        """The axis after pooling over `size` rows at a time: a row stands for the mean of their frequencies.

        Rows at the end that fill no window are left out, as torch's pooling does.
        """
        windows = zip(*(self.freqs[i::size] for i in range(size)), strict=False)
        return CentreAxis(tuple(sum(w) / size for w in windows), self.resolution)

    def describe(self) -> str:
        """The axis in a few words, for messages and tables."""
        return f"{len(self.freqs)} centre frequencies, {min(self.freqs):.4g} to {max(self.freqs):.4g}"


def crossed_rows(freqs: Sequence[float]) -> list[int]:
    """Rows that do not lie above the row before them. Harmonics are found all the same, but pictures look torn.

    >>> crossed_rows([100.0, 300.0, 200.0, 400.0])
    [2]
    """
    return [i for i in range(1, len(freqs)) if freqs[i] <= freqs[i - 1]]


Axis = LinearAxis | LogAxis | CentreAxis


def harmonics(kernel: int) -> Tensor:
    """1 ... kernel as a column: float64 [kernel, 1]."""
    return torch.arange(1, kernel + 1, dtype=torch.float64)[:, None]
