"""Layers made of layers: the stack, and the residual block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor, nn

from hlfeat.config.layers import ResidualConfig
from hlfeat.errors import ConfigError
from hlfeat.nn.axes import Axis
from hlfeat.nn.layers.base import Features, Layer, LayerInput, Row, count_parameters
from hlfeat.nn.layers.registry import build_layer, build_layers
from hlfeat.nn.masking import Count, mask_frames


class Stack(Layer):
    """Layers one after the other."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.stride = 1
        for layer in self:
            self.shift += self.stride * layer.shift
            if layer.receptive_field is None or self.receptive_field is None:
                self.receptive_field = None
            else:
                self.receptive_field += layer.receptive_field * self.stride
            self.stride *= layer.stride

    def __iter__(self) -> Iterator[Layer]:
        for layer in self.layers:
            assert isinstance(layer, Layer)
            yield layer

    def __len__(self) -> int:
        return len(self.layers)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        for layer in self.layers:
            x, frames = layer(x, frames)
        return x, frames

    def is_random(self) -> bool:
        return any(layer.is_random() for layer in self)

    def num_frames(self, frames: Count) -> Count:
        for layer in self:
            frames = layer.num_frames(frames)
        return frames

    def output_size(self, channels: int, bands: int) -> tuple[int, int]:
        for layer in self:
            channels, bands = layer.output_size(channels, bands)
        return channels, bands

    def set_axis(self, axis: Axis | None) -> Axis | None:
        for layer in self:
            axis = layer.set_axis(axis)
        return axis

    def output_freqs(self, freqs: np.ndarray | None) -> np.ndarray | None:
        for layer in self:
            freqs = layer.output_freqs(freqs)
        return freqs

    def summarise(self, before: Features, key: str) -> list[Row]:
        """The rows of all layers, in order."""
        rows: list[Row] = []
        for i, layer in enumerate(self):
            rows += layer.summarise(rows[-1].after if rows else before, f"{key}.{i}")
        return rows

    def warnings(self, freqs: np.ndarray, key: str) -> Iterator[str]:
        reached: np.ndarray | None = freqs
        for i, layer in enumerate(self):
            if reached is None:  # behind a projection
                return
            yield from layer.warnings(reached, f"{key}.{i}")
            reached = layer.output_freqs(reached)


class Residual(Layer):
    """body(x) + shortcut(x); the shortcut is a 1 x 1 convolution where channels or sizes change, else the identity."""

    def __init__(self, body: Stack, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.stride, self.shift, self.receptive_field = body.stride, body.shift, body.receptive_field
        if isinstance(shortcut, nn.Conv2d) and max(shortcut.stride) > 1:
            self.shortcut_stride = None

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        y, frames = self.body(x, frames)
        return mask_frames(y + self.shortcut(x), frames), frames

    def is_random(self) -> bool:
        return self.body.is_random() or count_parameters(self.shortcut) > 0

    def num_frames(self, frames: Count) -> Count:
        return self.body.num_frames(frames)

    def output_size(self, channels: int, bands: int) -> tuple[int, int]:
        return self.body.output_size(channels, bands)

    def set_axis(self, axis: Axis | None) -> Axis | None:
        return self.body.set_axis(axis)

    def output_freqs(self, freqs: np.ndarray | None) -> np.ndarray | None:
        return self.body.output_freqs(freqs)

    def describe(self, bands: int) -> str:
        return "residual" if isinstance(self.shortcut, nn.Identity) else "residual, its shortcut"

    def multiply_adds(self, before: Features, after: Features) -> float:
        """Those of the sum and of the shortcut; the body's are in rows of their own."""
        mixed = 0 if isinstance(self.shortcut, nn.Identity) else before.channels
        return after.numbers() * (1 + mixed)

    def summarise(self, before: Features, key: str) -> list[Row]:
        rows = self.body.summarise(before, f"{key}.layers")
        after = rows[-1].after
        cost = self.multiply_adds(before, after)
        return [*rows, Row(key, self.describe(before.bands), after, count_parameters(self.shortcut), cost)]

    def warnings(self, freqs: np.ndarray, key: str) -> Iterator[str]:
        return self.body.warnings(freqs, f"{key}.layers")


@build_layer.register
def build_residual(config: ResidualConfig, before: LayerInput) -> Layer:
    """The shortcut depends on what the body does to the shape."""
    layers, after = build_layers(config.layers, before.below("layers"))
    strides = [s for layer in layers if (s := layer.shortcut_stride) is not None]
    stride = math.prod(s[0] for s in strides), math.prod(s[1] for s in strides)
    if len(strides) < len(layers) or after.bands != -(-before.bands // stride[0]):
        raise ConfigError("expected convolutions, norms and activations in a residual block, not pools or projections")
    if after.channels == before.channels and stride == (1, 1):
        return Residual(Stack(layers), nn.Identity())
    return Residual(Stack(layers), nn.Conv2d(before.channels, after.channels, 1, stride))
