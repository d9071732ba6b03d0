"""Frequency axes: where harmonic k of a row lies. On the host, in float64; made once a shape, not once a call.

    p_k(f): the fractional row at k / n times the frequency of row f (n: the anchor)

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
    """Row f is f * bin_hz: p_k(f) = f k / n."""

    def positions(self, n_rows: int, kernel: int, anchor: int) -> Tensor:
        """Shape: -> float64 [kernel, n_rows]."""
        # integers first, one division: whole rows come out exactly
        return torch.arange(n_rows, dtype=torch.float64) * harmonics(kernel) / anchor

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

    def positions(self, n_rows: int, kernel: int, anchor: int) -> Tensor:
        """Shape: -> float64 [kernel, n_rows]."""
        shift = self.scale * torch.log(harmonics(kernel) / anchor) / math.log(self.radix)
        return torch.arange(n_rows, dtype=torch.float64) + shift

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
    resolution: float = EPS  # relative precision the frequencies were computed in

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
        """Shape: -> float64 [kernel, n_rows]; -1 where there is no such row."""
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
