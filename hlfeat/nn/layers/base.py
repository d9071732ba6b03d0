"""Layers after the frontend: harmonic and ordinary convolution, norm, activation, residual, pooling, projection.

Every layer maps (x [B, C, F, N], frames [B] or None) to the same pair, and leaves the frames past a clip's end at zero.
That is what makes a clip independent of its batch: a bias or a norm would otherwise fill the padding, and the next
layer's kernels would carry it back into the clip.

Layers know the frequency axis of their input (`set_axis`), because harmonics lie elsewhere on another axis, and say
which one they leave behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor, nn

from hlfeat.nn.axes import Axis
from hlfeat.nn.masking import Count, mask_frames


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
