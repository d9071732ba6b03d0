"""Harmonic convolution as modules: HarmonicConv2d, LogHarmonicConv2d and MixedHarmonicConv2d.

A row of the output looks at the harmonics of its frequency, not at its neighbours; the mathematics is in
hlfeat/nn/harmonic/functional.py, the axes are in hlfeat/nn/axes.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hlfeat.nn.axes import Axis, LinearAxis, LogAxis, centre_axis
from hlfeat.nn.harmonic.axis_conv import AxisHarmonicConv2d, Pair

OUT_LOG_SCALE, IN_LOG_SCALE = 1000, 0.001  # the published defaults


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
        padding: of time: n or (0, n) frames on either side, "same" or "valid". Along frequency it has no meaning:
            harmonics beyond the axis are zero.
        dilation: of time: n or (1, n).
        padding_mode: of time: "zeros", "reflect", "replicate" or "circular".
        anchor: n; harmonic k of row f is at k / n times its frequency.
        centre_freqs: frequency of each row, in any unit and any order (mel-spaced, learned); None: row f is f times
            the distance of rows.
        axis: a LinearAxis, LogAxis or CentreAxis instead of centre_freqs.

    Shape:
        - input [B, C, F, T] or [C, F, T], weight [out, in / groups, Kf, Kt], bias [out]
        - output [B, out, ceil(F / stride[0]), T'], T' as for nn.Conv2d

    Raises:
        ValueError: an argument out of range, an input of another number of channels or rows.
        AxisError (a ValueError): centre frequencies that are negative or not finite.

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
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        anchor: int = 1,
        centre_freqs: Tensor | np.ndarray | Sequence[float] | None = None,
        axis: Axis | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if axis is not None and centre_freqs is not None:
            raise ValueError("expected centre_freqs or axis, got both")
        if axis is None:
            axis = LinearAxis() if centre_freqs is None else centre_axis(centre_freqs)
        super().__init__(
            axis,
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
        bins_per_octave: rows an octave, in place of A, B and C, as of a constant-Q transform. The published defaults
            mean 693 rows an octave.
        axis: a LogAxis, in place of all of these.
        in_channels, ..., anchor, device, dtype: as for HarmonicConv2d.

    Shape: as for HarmonicConv2d.

    Raises:
        ValueError: as for HarmonicConv2d; a scale of 0 or below, a radix of 1 or below.

    Example:
        >>> import hlfeat, torch
        >>> conv = hlfeat.LogHarmonicConv2d(1, 4, (3, 1), bins_per_octave=12)
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
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        anchor: int = 1,
        out_log_scale: float = OUT_LOG_SCALE,
        in_log_scale: float = IN_LOG_SCALE,
        radix: float | None = None,
        bins_per_octave: float | None = None,
        axis: LogAxis | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        published = (out_log_scale, in_log_scale, radix) != (OUT_LOG_SCALE, IN_LOG_SCALE, None)
        if published + (bins_per_octave is not None) + (axis is not None) > 1:
            raise ValueError("expected one of axis, bins_per_octave, and out_log_scale with in_log_scale and radix")
        if not (out_log_scale > 0 and in_log_scale > 0 and (radix is None or radix > 1)):
            raise ValueError(
                f"expected out_log_scale > 0, in_log_scale > 0 and radix > 1, "
                f"got {out_log_scale}, {in_log_scale} and {radix}"
            )
        if bins_per_octave is not None and not bins_per_octave > 0:
            raise ValueError(f"expected bins_per_octave > 0, got {bins_per_octave}")
        if axis is None and bins_per_octave is not None:
            axis = LogAxis(bins_per_octave, 2.0)
        super().__init__(
            axis or LogAxis(out_log_scale, math.e if radix is None else radix),
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
        in_channels, ..., padding_mode: as for HarmonicConv2d.

    Shape: [B, in_channels, F, T] (B may be missing) -> [B, out_channels, ceil(F / stride[0]), T'], T' as for nn.Conv2d.

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
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        anchors: Sequence[int],
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            AxisHarmonicConv2d(
                axis,
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
        return self.mix(torch.cat([branch(x) for branch in self.branches], dim=-3))  # type: ignore[no-any-return]
