"""AxisHarmonicConv2d: harmonic convolution on any axis; the base of the modules in hlfeat/nn/harmonic/modules.py.

Arguments are those of nn.Conv2d as far as they have a meaning: padding, its mode and dilation are of time.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from typing import SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlfeat.nn._private_torch import exporting, without_functorch
from hlfeat.nn.axes import Axis
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from hlfeat.nn.harmonic.plan import Plan, linear_interpolation
from hlfeat.nn.harmonic.table import Table

Pair = SupportsIndex | tuple[int, int] | Sequence[int]
MODES = ("zeros", "reflect", "replicate", "circular")  # of padding, as for nn.Conv2d


def pair(value: Pair, name: str) -> tuple[int, int]:
    """An int for both, or (frequency, time)."""
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return operator.index(value), operator.index(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return int(value[0]), int(value[1])
    raise ValueError(f"expected {name} to be an int or a pair (frequency, time), got {value!r}")


def time_padding(padding: Pair | str, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Frames before the first and behind the last, for an int, a pair (0, n), "same" or "valid"."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        if stride != 1:
            raise ValueError(f'expected a stride of 1 in time with padding "same", got {stride}')
        before = dilation * (kernel - 1) // 2  # as nn.Conv2d: an odd frame is put behind
        return before, dilation * (kernel - 1) - before
    if isinstance(padding, str):
        raise ValueError(f'expected padding to be an int, a pair (0, n), "same" or "valid", got {padding!r}')
    frames = pair(padding, "padding")
    if isinstance(padding, Sequence) and frames[0] != 0:
        raise ValueError(
            f"harmonics beyond the axis are zero as they are: write padding={frames[1]} or (0, {frames[1]}), "
            f"got {tuple(padding)}"
        )
    if frames[1] < 0:
        raise ValueError(f"expected padding from 0, got {padding}")
    return frames[1], frames[1]


class AxisHarmonicConv2d(nn.Module):
    """Parameters, argument checks and the plans made of the axis; a subclass gives the axis."""

    def __init__(
        self,
        axis: Axis,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
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
        frequency_dilation, time_dilation = pair(dilation, "dilation")
        if isinstance(dilation, Sequence) and frequency_dilation != 1:
            raise ValueError(
                f"harmonics have no spacing to widen: write dilation={time_dilation} or (1, {time_dilation}), "
                f"got {tuple(dilation)}"
            )
        self.dilation = (1, time_dilation)
        if min(self.kernel_size) < 1 or min(self.stride) < 1 or time_dilation < 1:
            raise ValueError(
                f"expected kernel_size, stride and dilation of at least 1, got {kernel_size}, {stride}, {dilation}"
            )
        self.time_padding = time_padding(padding, self.kernel_size[1], self.stride[1], time_dilation)
        self.padding: tuple[int, int] | str = padding if isinstance(padding, str) else (0, self.time_padding[0])
        if padding_mode not in MODES:
            raise ValueError(f"expected padding_mode {', '.join(MODES)}, got {padding_mode!r}")
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
        self._table = Table.of(axis, self.anchor, self.stride[0])
        self._plans: dict[int, Plan] = {}
        self._warned = False
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
            self._table = Table.of(axis, self.anchor, self.stride[0])
            self._plans = {}

    def positions(self, n_rows: int) -> Tensor:
        """p_k(f) of the rows that the stride keeps; on a CentreAxis whose frequencies are not in order, ranks of rows.

        Shape: -> float64 [Kf, ceil(n_rows / stride)].
        """
        return self.axis.positions(n_rows, self.kernel_size[0], self.anchor)[:, :: self.stride[0]]

    def plan(self, n_rows: int) -> Plan:
        """The rows that are read and the blocks of work, for an input of `n_rows` rows; made once."""
        if n_rows not in self._plans:
            with without_functorch():  # a plan is of numbers, whatever torch.func does with the input
                self._plans[n_rows] = Plan(self.positions(n_rows), n_rows, self.axis.order)
            self._warn_of_no_harmonics(self._plans[n_rows])
        return self._plans[n_rows]

    def _warn_of_no_harmonics(self, plan: Plan) -> None:
        """Warn once where no harmonic but the row itself lies on the axis: the layer is none, then."""
        others = [k for k in range(plan.harmonics) if k != self.anchor - 1]
        if self._warned or not others or plan.active[others].any():
            return
        self._warned = True
        warnings.warn(
            f"no harmonic lies on the axis of {plan.rows} rows ({self.axis.describe()}): "
            f"harmonics 1 to {plan.harmonics} of anchor {self.anchor} read nothing but the row itself",
            stacklevel=4,
        )

    def places(self, x: Tensor) -> Plan | Table | tuple[Tensor, Tensor]:
        """The plan, or within torch.compile and torch.export, which cannot trace how it is made, what it follows from.

        An export takes a plan that a call before it has made.
        """
        n_rows = x.shape[2]
        if not torch.compiler.is_compiling():
            return self.plan(n_rows)
        from hlfeat.nn.harmonic.custom_op import opaque

        if opaque(x):
            return self._table
        if exporting() and n_rows in self._plans:
            return self._plans[n_rows]
        return linear_interpolation(self.positions(n_rows), n_rows, self.axis.order)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(
                f"expected an input [B, {self.in_channels}, F, T] or [{self.in_channels}, F, T], got {list(x.shape)}"
            )
        if x.dim() == 3:
            return self.forward(x[None])[0]
        before, behind = self.time_padding
        if before != behind or self.padding_mode != "zeros":
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, before = F.pad(x, (before, behind, 0, 0), mode), 0
        return harmonic_conv2d(
            x,
            self.weight,
            self.bias,
            self.places(x),
            stride=self.stride[1],
            padding=before,
            dilation=self.dilation[1],
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"padding_mode={self.padding_mode}, anchor={self.anchor}, axis={self.axis.describe()}"
        )
