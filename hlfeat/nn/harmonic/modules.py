"""Harmonic convolution as modules: HarmonicConv2d, LogHarmonicConv2d and MixedHarmonicConv2d.

A row of the output looks at the harmonics of its frequency, not at its neighbours; the mathematics is in
hlfeat/nn/harmonic/functional.py, the axes are in hlfeat/nn/axes.py.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from hlfeat.nn._private_torch import exporting, without_functorch
from hlfeat.nn.axes import Axis, LinearAxis, LogAxis, centre_axis
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from hlfeat.nn.harmonic.plan import Plan

Pair = SupportsIndex | tuple[int, int] | Sequence[int]


def pair(value: Pair, name: str) -> tuple[int, int]:
    """An int for both, or (frequency, time)."""
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return operator.index(value), operator.index(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return int(value[0]), int(value[1])
    raise ValueError(f"expected {name} to be an int or a pair (frequency, time), got {value!r}")


class AxisHarmonicConv2d(nn.Module):
    """Parameters, argument checks and the plans made of the axis; a subclass gives the axis."""

    def __init__(
        self,
        axis: Axis,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        anchor: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.stride = pair(stride, "stride")
        self.padding = pair(padding, "padding")
        self.dilation = pair(dilation, "dilation")
        if min(self.kernel_size) < 1 or min(self.stride) < 1 or self.dilation[1] < 1:
            raise ValueError(
                f"expected kernel_size, stride and dilation of at least 1, got {kernel_size}, {stride}, {dilation}"
            )
        if self.padding[0] != 0 or self.padding[1] < 0:
            raise ValueError(
                f"expected padding (0, n): harmonics beyond the axis are zero as they are; got {padding!r}"
            )
        if self.dilation[0] != 1:
            raise ValueError(f"expected dilation (1, n): harmonics have no spacing to widen; got {dilation!r}")
        if padding_mode != "zeros":
            raise ValueError(f'expected padding_mode "zeros", got {padding_mode!r}')
        if isinstance(anchor, bool) or not isinstance(anchor, SupportsIndex) or operator.index(anchor) < 1:
            raise ValueError(f"expected an anchor of 1 or above, got {anchor!r}")
        if groups < 1 or in_channels < 1 or out_channels < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"expected in_channels and out_channels to be multiples of groups, "
                f"got {in_channels}, {out_channels} and {groups}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.padding_mode = padding_mode
        self.anchor = operator.index(anchor)
        self.axis = axis
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size, device=device, dtype=dtype)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self._plans: dict[int, Plan] = {}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as nn.Conv2d does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def set_axis(self, axis: Axis) -> None:
        """Read harmonics where this axis has them, from the next call on."""
        if axis != self.axis:
            self.axis = axis
            self._plans = {}

    def positions(self, n_rows: int) -> Tensor:
        """p_k(f) of the rows that the stride keeps.

        Shape: -> float64 [Kf, ceil(n_rows / stride)].
        """
        return self.axis.positions(n_rows, self.kernel_size[0], self.anchor)[:, :: self.stride[0]]

    def plan(self, n_rows: int) -> Plan:
        """The rows that are read and the blocks of work, for an input of `n_rows` rows; made once."""
        if n_rows not in self._plans:
            with without_functorch():  # a plan is of numbers, whatever torch.func does with the input
                self._plans[n_rows] = Plan(self.positions(n_rows), n_rows)
        return self._plans[n_rows]

    def places(self, n_rows: int) -> Plan | Tensor:
        """The plan, or within torch.compile and torch.export, which cannot trace how it is made, the positions.

        An export takes a plan that a call before it has made.
        """
        if torch.compiler.is_compiling() and not (exporting() and n_rows in self._plans):
            return self.positions(n_rows)
        return self.plan(n_rows)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected an input [B, {self.in_channels}, F, T], got {list(x.shape)}")
        return harmonic_conv2d(
            x,
            self.weight,
            self.bias,
            self.places(x.shape[2]),
            stride=self.stride[1],
            padding=self.padding[1],
            dilation=self.dilation[1],
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"anchor={self.anchor}, axis={self.axis.describe()}"
        )


class HarmonicConv2d(AxisHarmonicConv2d):
    """Harmonic convolution on a linear axis, or on given centre frequencies; a drop-in for nn.Conv2d.

        Y[o, f, t] = bias[o] + sum over c, k = 1..Kf, u of  W[o, c, k, u] * X[c, p_k(f), t + u]

    p_k(f) is the row at k / anchor times the frequency of row f, read by linear interpolation; outside the axis it is
    zero. Sources: Zhang et al., "Deep Audio Priors Emerge from Harmonic Convolutional Networks", ICLR 2020; Takeuchi et
    al., "Harmonic Lowering", Interspeech 2020.

    Args:
        in_channels, out_channels, stride, groups, bias, device, dtype: as for nn.Conv2d; stride[0] keeps every
            stride[0]-th row.
        kernel_size: (Kf harmonics, Kt frames).
        padding, dilation: of time: (0, n) and (1, n). Along frequency they have no meaning.
        padding_mode: "zeros".
        anchor: n; harmonic k of row f is at k / n times its frequency.
        centre_freqs: frequency of each row, increasing, in any unit (mel-spaced, learned); None: row f is f times the
            distance of rows.

    Shape:
        - input [B, C, F, T], weight [out, in / groups, Kf, Kt], bias [out]
        - output [B, out, ceil(F / stride[0]), T'], T' as for nn.Conv2d

    Raises:
        ValueError: an argument out of range, an input of another number of channels or rows.
        AxisError (a ValueError): centre frequencies that do not increase; it names the rows that crossed.

    Example:
        >>> import hlfeat, torch
        >>> leaf = hlfeat.EfficientLeaf(n_filters=40)
        >>> conv = hlfeat.HarmonicConv2d(2, 8, (5, 3), padding=(0, 1), centre_freqs=leaf.centre_freqs())
        >>> conv(leaf(torch.randn(1, 16000))).shape
        torch.Size([1, 8, 40, 100])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        anchor: int = 1,
        centre_freqs: Tensor | np.ndarray | Sequence[float] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            LinearAxis() if centre_freqs is None else centre_axis(centre_freqs),
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            anchor=anchor,
            device=device,
            dtype=dtype,
        )


class LogHarmonicConv2d(AxisHarmonicConv2d):
    """Harmonic convolution on a log axis: the row of x Hz is A log_C(B x), and harmonic k lies at a constant distance.

    Source: Takeuchi et al., "Harmonic Lowering", Interspeech 2020.

    Args:
        out_log_scale: A. With A = 12 and C = 2, an octave has 12 rows.
        in_log_scale: B. It moves the whole axis, and every harmonic with it, so it does not change the result.
        radix: C; None: e.
        in_channels, ..., anchor, device, dtype: as for HarmonicConv2d.

    Shape: as for HarmonicConv2d.

    Raises:
        ValueError: as for HarmonicConv2d; a scale of 0 or below, a radix of 1 or below.

    Example:
        >>> import hlfeat, torch
        >>> conv = hlfeat.LogHarmonicConv2d(1, 4, (3, 1), out_log_scale=12, radix=2)
        >>> conv(torch.randn(2, 1, 84, 50)).shape
        torch.Size([2, 4, 84, 50])
        >>> conv.positions(84)[1, 0].item()  # the second harmonic of row 0 is an octave up
        12.0
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        anchor: int = 1,
        out_log_scale: float = 1000,
        in_log_scale: float = 0.001,
        radix: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not (out_log_scale > 0 and in_log_scale > 0 and (radix is None or radix > 1)):
            raise ValueError(
                f"expected out_log_scale > 0, in_log_scale > 0 and radix > 1, "
                f"got {out_log_scale}, {in_log_scale} and {radix}"
            )
        super().__init__(
            LogAxis(out_log_scale, math.e if radix is None else radix),
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            anchor=anchor,
            device=device,
            dtype=dtype,
        )
        self.in_log_scale = in_log_scale


class MixedHarmonicConv2d(nn.Module):
    """Harmonic convolutions with several anchors side by side, mixed by a 1 x 1 convolution.

    Source: Zhang et al., "Deep Audio Priors Emerge from Harmonic Convolutional Networks", ICLR 2020, "mixed anchors".

    Args:
        axis: LinearAxis, LogAxis or CentreAxis of the input's rows.
        anchors: of one harmonic convolution each.
        in_channels, ..., bias: as for HarmonicConv2d.

    Shape: [B, in_channels, F, T] -> [B, out_channels, ceil(F / stride[0]), T'], T' as for nn.Conv2d.

    Raises:
        ValueError: as for HarmonicConv2d.

    Example:
        >>> import hlfeat, torch
        >>> conv = hlfeat.MixedHarmonicConv2d(hlfeat.LinearAxis(), 1, 8, (3, 3), padding=(0, 1), anchors=(1, 2, 3))
        >>> conv(torch.randn(2, 1, 129, 50)).shape
        torch.Size([2, 8, 129, 50])
    """

    def __init__(
        self,
        axis: Axis,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        anchors: Sequence[int],
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            AxisHarmonicConv2d(
                axis, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, anchor=anchor
            )
            for anchor in anchors
        )
        self.mix = nn.Conv2d(len(anchors) * out_channels, out_channels, 1, bias=bias)

    def set_axis(self, axis: Axis) -> None:
        """Read harmonics where this axis has them, from the next call on."""
        for branch in self.branches:
            assert isinstance(branch, AxisHarmonicConv2d)
            branch.set_axis(axis)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([branch(x) for branch in self.branches], dim=1))  # type: ignore[no-any-return]
