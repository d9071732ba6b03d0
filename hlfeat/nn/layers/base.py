"""Layer: the interface of what follows a frontend, and the values that describe features between layers.

Every layer maps (x [B, C, F, N], frames [B] or None) to the same pair, and leaves the frames past a clip's end at zero.
That makes a clip independent of its batch: a bias or a norm would otherwise fill the padding, and the next layer's
kernels would carry it back into the clip.

Layers know the frequency axis of their input (`set_axis`), because harmonics lie elsewhere on another axis, and return
the axis of their output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from hlfeat.nn.axes import Axis
from hlfeat.nn.masking import Count


@dataclass(frozen=True)
class LayerInput:
    """What a layer is built for.

    Args:
        channels, bands: C and F of its input.
        axis: of the bands; None where they have no order in frequency any more.
        bins_per_octave: of the frontend, where its bands are spaced so.
        key: place of the layer in the configuration, such as ("stack", 0).
    """

    channels: int
    bands: int
    axis: Axis | None
    bins_per_octave: float | None = None
    key: tuple[str | int, ...] = ("stack",)

    def below(self, *key: str | int) -> LayerInput:
        """The same input of what stands under this key."""
        return replace(self, key=(*self.key, *key))


@dataclass(frozen=True)
class Features:
    """Features at one place between layers, and what one value of them depends on.

    Args:
        channels, bands: of a frame.
        rate: frames a second.
        receptive_field: seconds of audio, from the first sample to the last.
        beyond: "" where that is all, else "all before" or "whole clip".
    """

    channels: int
    bands: int
    rate: float
    receptive_field: float
    beyond: str = ""

    def depends_on(self) -> str:
        """The receptive field in words."""
        if self.beyond == "whole clip":
            return self.beyond
        return f"{self.receptive_field:.3f} s" + (self.beyond and f" and {self.beyond}")

    def numbers(self) -> float:
        """Values a second."""
        return self.channels * self.bands * self.rate

    def through(self, layer: Layer) -> Features:
        """The features after a layer."""
        channels, bands = layer.output_size(self.channels, self.bands)
        side = layer.receptive_field
        return Features(
            channels,
            bands,
            self.rate / layer.stride,
            self.receptive_field + (0.0 if side is None else 2 * (layer.shift + side)) / self.rate,
            "whole clip" if side is None else self.beyond,
        )


@dataclass(frozen=True)
class Row:
    """One layer of a summary: its key in the configuration, what it is, what leaves it, and what it costs a second."""

    key: str
    what: str
    after: Features
    parameters: int
    cost: float


class Layer(nn.Module):
    """Base class of the layers of a stack.

    A subclass defines `forward` and `describe`, and those of the others for which the default is wrong: the defaults
    are those of a layer that changes values only. A function `@build_layer.register` (registry.py) builds it from its
    configuration.

    Attributes:
        stride: how many input frames one output frame stands for.
        shift: output frame n is centred on input frame n * stride + shift.
        receptive_field: input frames on either side that it depends on, beyond `shift`; None: on all of the clip's.
        shortcut_stride: (bands, frames) of a 1 x 1 convolution whose output has the same places; None: there is none.
        drawn: whether its parameters, if it has any, are drawn at random before they are trained.

    Shape:
        - x: [B, C, F, N]; frames: [B], how many of the N exist, or None for all
        - output: [B, C', F', N'] and the frames that exist; the others are zero
    """

    stride: int = 1
    shift: float = 0.0
    receptive_field: int | None = 0
    shortcut_stride: tuple[int, int] | None = (1, 1)
    drawn: bool = True

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError

    def describe(self, bands: int) -> str:
        """What the layer is, in a few words, for an input of so many bands."""
        raise NotImplementedError

    def is_random(self) -> bool:
        """Whether without training its output is that of random parameters."""
        return self.drawn and count_parameters(self) > 0

    def num_frames(self, frames: Count) -> Count:
        """Output frames of clips of so many input frames, one or a tensor of them."""
        return (frames - 1) // self.stride + 1

    def output_size(self, channels: int, bands: int) -> tuple[int, int]:
        """Channels and bands of the output, for those of the input."""
        return channels, bands

    def set_axis(self, axis: Axis | None) -> Axis | None:
        """Take the axis of the input's bands, return that of the output's."""
        return axis

    def output_freqs(self, freqs: np.ndarray | None) -> np.ndarray | None:
        """Hertz of the output's bands [F'], for those of the input [F]; None: bands have no frequency any more."""
        return freqs

    def multiply_adds(self, before: Features, after: Features) -> float:
        """An estimate of what one second of audio takes."""
        return before.numbers()

    def summarise(self, before: Features, key: str) -> list[Row]:
        """A row for the layer, after those of the layers inside it."""
        after = before.through(self)
        cost = self.multiply_adds(before, after)
        return [Row(key, self.describe(before.bands), after, count_parameters(self), cost)]

    def warnings(self, freqs: np.ndarray, key: str) -> Iterator[str]:
        """What can be built but looks wrong, for bands at these hertz; each begins with the layer's key."""
        return iter(())


def count_parameters(module: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in module.parameters())
