"""Convolution over bands and frames, and the projection of a frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from hlfeat.config.layers import ConvConfig, ProjectionConfig
from hlfeat.errors import ConfigError
from hlfeat.nn.axes import Axis
from hlfeat.nn.harmonic.axis_conv import AxisHarmonicConv2d
from hlfeat.nn.harmonic.modules import MixedHarmonicConv2d
from hlfeat.nn.layers.base import Features, Layer, LayerInput
from hlfeat.nn.layers.registry import build_layer
from hlfeat.nn.masking import mask_frames

AnyConv = AxisHarmonicConv2d | MixedHarmonicConv2d | nn.Conv2d


class ConvLayer(Layer):
    """An ordinary convolution over bands and time, padded so that frame n stays where it was.

    Args:
        conv: the convolution; a subclass has a harmonic one.
        stride: keep every n-th (band, frame).
    """

    def __init__(self, conv: AnyConv, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv = conv
        self.band_stride, self.stride = self.shortcut_stride = stride
        kernel = self.kernel()
        self.receptive_field = kernel.dilation[1] * (kernel.kernel_size[1] // 2)

    def kernel(self) -> AxisHarmonicConv2d | nn.Conv2d:
        """The convolution, or one of several of the same size side by side."""
        one = self.conv.branches[0] if isinstance(self.conv, MixedHarmonicConv2d) else self.conv
        assert isinstance(one, nn.Conv2d | AxisHarmonicConv2d)
        return one

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        frames = None if frames is None else self.num_frames(frames)
        return mask_frames(self.conv(x), frames), frames

    def output_size(self, channels: int, bands: int) -> tuple[int, int]:
        return self.kernel().out_channels, -(-bands // self.band_stride)

    def set_axis(self, axis: Axis | None) -> Axis | None:
        return axis and axis.every(self.band_stride)

    def output_freqs(self, freqs: np.ndarray | None) -> np.ndarray | None:
        return None if freqs is None else freqs[:: self.band_stride]

    def describe(self, bands: int) -> str:
        harmonics, frames = self.kernel().kernel_size
        return f"conv {harmonics} x {frames}"

    def multiply_adds_of_a_row(self, after: Features) -> float:
        """What one row of the kernel takes for one band."""
        kernel = self.kernel()
        return kernel.out_channels * (kernel.in_channels // kernel.groups) * kernel.kernel_size[1] * after.rate

    def multiply_adds(self, before: Features, after: Features) -> float:
        return self.multiply_adds_of_a_row(after) * self.kernel().kernel_size[0] * after.bands


class Projection(Layer):
    """Linear map of all channels and bands of a frame: [B, C, F, N] -> [B, 1, features, N]."""

    def __init__(self, inputs: int, features: int, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, features, bias=bias)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        y = self.linear(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2)[:, None]
        return mask_frames(y, frames), frames

    def output_size(self, channels: int, bands: int) -> tuple[int, int]:
        return 1, self.linear.out_features

    def set_axis(self, axis: Axis | None) -> Axis | None:
        return None

    def output_freqs(self, freqs: np.ndarray | None) -> np.ndarray | None:
        return None

    def describe(self, bands: int) -> str:
        return "projection"

    def multiply_adds(self, before: Features, after: Features) -> float:
        return before.numbers() * self.linear.out_features


@build_layer.register
def build_conv(config: ConvConfig, before: LayerInput) -> Layer:
    channels, groups = before.channels, config.groups
    if channels % groups or config.out_channels % groups:
        raise ConfigError(
            f"groups: expected a divisor of {channels} and {config.out_channels} channels, got {config.groups}"
        )
    conv = nn.Conv2d(
        channels,
        config.out_channels,
        config.kernel,
        config.stride,
        same_padding(config.kernel, config.dilation),
        config.dilation,
        groups,
        config.bias,
    )
    return ConvLayer(conv, config.stride)


@build_layer.register
def build_projection(config: ProjectionConfig, before: LayerInput) -> Layer:
    return Projection(before.channels * before.bands, config.features, config.bias)


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """Zeros on either side that keep bands and frames where they are, for odd kernels."""
    return dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)
