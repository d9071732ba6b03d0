"""Convolution layers of a stack: harmonic, ordinary, and the projection of a frame."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hlfeat.errors import ConfigError
from hlfeat.nn.axes import Axis
from hlfeat.nn.harmonic.modules import AxisHarmonicConv2d, MixedHarmonicConv2d
from hlfeat.nn.layers.base import Layer
from hlfeat.nn.masking import mask_frames


class ConvLayer(Layer):
    """A convolution over bands and time, harmonic or ordinary, that keeps frame n where it was.

    Args:
        conv: the convolution.
        axis: for a harmonic one: an axis of its own, or None to follow the input's.
    """

    def __init__(
        self,
        conv: AxisHarmonicConv2d | MixedHarmonicConv2d | nn.Conv2d,
        stride: tuple[int, int],
        axis: Axis | None = None,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.axis = axis
        self.band_stride, self.stride = stride
        one: nn.Module = conv.branches[0] if isinstance(conv, MixedHarmonicConv2d) else conv
        assert isinstance(one, nn.Conv2d | AxisHarmonicConv2d)
        self.reach = one.dilation[1] * (one.kernel_size[1] // 2)

    def set_axis(self, axis: Axis | None) -> Axis | None:
        if not isinstance(self.conv, nn.Conv2d):
            axis = self.axis or axis
            if axis is None:
                raise ConfigError("expected bands in the order of their frequency, but a projection came before")
            self.conv.set_axis(axis)
        return axis and axis.every(self.band_stride)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        frames = None if frames is None else self.num_frames(frames)
        return mask_frames(self.conv(x), frames), frames


class Projection(Layer):
    """Linear map of all channels and bands of a frame: [B, C, F, N] -> [B, 1, features, N]."""

    def __init__(self, inputs: int, features: int, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, features, bias=bias)

    def set_axis(self, axis: Axis | None) -> Axis | None:
        return None

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        y = self.linear(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2)[:, None]
        return mask_frames(y, frames), frames


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """Zeros on either side that keep bands and frames where they are, for odd kernels."""
    return dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)
