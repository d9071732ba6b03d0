"""Layers after the frontend: harmonic and ordinary convolution, norm, activation, residual, pooling, projection.

Every layer maps (x [B, C, F, N], frames [B] or None) to the same pair, and leaves the frames past a clip's end at zero.
That is what makes a clip independent of its batch: a bias or a norm would otherwise fill the padding, and the next
layer's kernels would carry it back into the clip.

Layers know the frequency axis of their input (`set_axis`), because harmonics lie elsewhere on another axis, and say
which one they leave behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlfeat.axes import Axis, CentreAxis, LogAxis
from hlfeat.errors import ConfigError
from hlfeat.harmonic import MixedHarmonicConv2d, _HarmonicConv2d
from hlfeat.masking import Count, batch_norm, frame_mask, mask_frames


class Shape(NamedTuple):
    """Channels and bands of features, and the axis of the bands (None: they have no order in frequency any more)."""

    channels: int
    bands: int
    axis: Axis | None


class Layer(nn.Module):
    """A part of a stack.

    `stride` is how many input frames one output frame stands for: output frame n is centred on n * stride + `shift`.
    `reach` is how many on either side of these it looks at (None: at all of the clip's).
    """

    stride = 1
    shift = 0.0
    reach: int | None = 0

    def set_axis(self, axis: Axis | None) -> Axis | None:
        """Take the axis of the input's bands, return that of the output's."""
        return axis

    def num_frames(self, frames: Count) -> Count:
        """Output frames of clips of so many input frames, one or a tensor of them."""
        return (frames - 1) // self.stride + 1

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


class ConvLayer(Layer):
    """A convolution over bands and time, harmonic or ordinary, that keeps frame n where it was.

    Args:
        conv: the convolution.
        axis: for a harmonic one: an axis of its own, or None to follow the input's.
    """

    def __init__(
        self, conv: _HarmonicConv2d | MixedHarmonicConv2d | nn.Conv2d, stride: tuple[int, int], axis: Axis | None = None
    ) -> None:
        super().__init__()
        self.conv = conv
        self.axis = axis
        self.band_stride, self.stride = stride
        one: nn.Module = conv.branches[0] if isinstance(conv, MixedHarmonicConv2d) else conv
        assert isinstance(one, nn.Conv2d | _HarmonicConv2d)
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


class BatchNorm(Layer):
    """Batch normalisation of each channel over clips, bands and existing frames."""

    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, affine=affine)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if not self.bn.training:  # no statistics to take, so no frames to tell apart
            bn = self.bn
            y = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
            return mask_frames(y, frames), frames
        mask = None
        if frames is not None:
            mask = frame_mask(frames, x.shape[-1])[:, None].expand(-1, x.shape[2], -1).reshape(x.shape[0], -1)
        y = batch_norm(self.bn, x.flatten(2), mask).view_as(x)
        return mask_frames(y, frames), frames


class LayerNorm(Layer):
    """Normalisation of each frame over its channels and bands."""

    def __init__(self, channels: int, bands: int, affine: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm([channels, bands], elementwise_affine=affine)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        y = self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mask_frames(y, frames), frames


class InstanceNorm(Layer):
    """Normalisation of each channel over the bands and frames of its clip. Not local in time: needs the whole clip."""

    reach = None

    def __init__(self, channels: int, affine: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        count: Tensor | int = x.shape[2] * x.shape[3]
        if frames is not None:
            count = (x.shape[2] * frames.clamp(min=1))[:, None, None, None]
        mean = x.sum((2, 3), keepdim=True) / count  # padding is zero, so only existing frames are summed
        centred = mask_frames(x - mean, frames)
        y = centred * torch.rsqrt(centred.square().sum((2, 3), keepdim=True) / count + self.eps)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return mask_frames(y, frames), frames


class Activation(Layer):
    """Pointwise nonlinearity; what it makes of zero must not fill the padding."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return mask_frames(self.module(x), frames), frames


class Pool(Layer):
    """Mean or maximum over non-overlapping windows of bands and frames.

    A last window in time that the clip fills only partly counts what there is of it; bands that fill no window are
    left out, as in torch.
    """

    def __init__(self, kind: str, bands: int, frames: int) -> None:
        super().__init__()
        self.kind, self.bands, self.stride = kind, bands, frames
        self.shift = (frames - 1) / 2

    def set_axis(self, axis: Axis | None) -> Axis | None:
        """A pooled row stands for the mean frequency of its window."""
        if axis is None or self.bands == 1:
            return axis
        if isinstance(axis, LogAxis):
            return axis.every(self.bands)
        if not isinstance(axis, CentreAxis):  # row f of the pooled axis is no multiple of a bin any more
            raise ConfigError(
                "expected pool.bands = 1 on a linear axis: pooled rows are not at multiples of one frequency"
            )
        windows = zip(*(axis.freqs[i :: self.bands] for i in range(self.bands)), strict=False)
        return CentreAxis(tuple(sum(w) / self.bands for w in windows), axis.resolution)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        size, n = (self.bands, self.stride), x.shape[-1]
        exists = x.new_ones(1, 1, 1, n)
        if frames is not None:
            exists = frame_mask(frames, n)[:, None, None].to(x.dtype)  # [B, 1, 1, N]
        pad = -n % self.stride
        if self.kind == "max":
            y = F.max_pool2d(F.pad(x.masked_fill(exists == 0, -torch.inf), (0, pad), value=-torch.inf), size)
        else:
            share = F.avg_pool2d(F.pad(exists, (0, pad)), (1, self.stride))  # how much of each window exists
            y = F.avg_pool2d(F.pad(x, (0, pad)), size) / share.clamp(min=0.5 / self.stride)
        frames = None if frames is None else self.num_frames(frames)
        return mask_frames(y, frames), frames


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


class Residual(Layer):
    """body(x) + x; the shortcut is a 1 x 1 convolution where channels or sizes change."""

    def __init__(self, body: Stack, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.stride, self.shift, self.reach = body.stride, body.shift, body.reach

    def set_axis(self, axis: Axis | None) -> Axis | None:
        return self.body.set_axis(axis)

    def num_frames(self, frames: Count) -> Count:
        return self.body.num_frames(frames)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        y, frames = self.body(x, frames)
        return mask_frames(y + self.shortcut(x), frames), frames


class Stack(Layer):
    """Layers one after the other."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.stride = 1
        for layer in self:
            self.shift += self.stride * layer.shift
            if layer.reach is None or self.reach is None:
                self.reach = None
            else:
                self.reach += layer.reach * self.stride
            self.stride *= layer.stride

    def __iter__(self) -> Iterator[Layer]:
        for layer in self.layers:
            assert isinstance(layer, Layer)
            yield layer

    def set_axis(self, axis: Axis | None) -> Axis | None:
        for layer in self:
            axis = layer.set_axis(axis)
        return axis

    def num_frames(self, frames: Count) -> Count:
        for layer in self:
            frames = layer.num_frames(frames)
        return frames

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        for layer in self.layers:
            x, frames = layer(x, frames)
        return x, frames


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """Zeros on either side that keep bands and frames where they are, for odd kernels."""
    return dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)
