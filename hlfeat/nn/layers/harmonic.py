"""Harmonic convolution as a layer of a stack: the axis it looks for harmonics on, and whether that looks right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hlfeat.config.layers import HarmonicConfig
from hlfeat.errors import ConfigError
from hlfeat.nn.axes import Axis, CentreAxis, LinearAxis, LogAxis
from hlfeat.nn.harmonic.axis_conv import AxisHarmonicConv2d
from hlfeat.nn.harmonic.modules import MixedHarmonicConv2d
from hlfeat.nn.harmonic.salience import init_salience_
from hlfeat.nn.layers.base import Features, Layer, LayerInput
from hlfeat.nn.layers.conv import ConvLayer
from hlfeat.nn.layers.registry import build_layer

MAX_OUTSIDE = 2 / 3  # of a kernel's reads; an octave of overtones (7 from anchor 1) stays below on any axis
MAX_DISTANCE = 0.5  # bands between where harmonics are read and where they lie: interpolation blurs as much
RESOLUTION = 1e-6  # relative, of frequencies computed in float32
NO_ORDER = "expected bands in the order of their frequency, but a projection came before"


class HarmonicLayer(ConvLayer):
    """A harmonic convolution, of one anchor or of several.

    Args:
        conv: the convolution.
        stride: keep every n-th (band, frame).
        axis: a fixed axis; None: that of the input.
    """

    conv: AxisHarmonicConv2d | MixedHarmonicConv2d

    def __init__(
        self, conv: AxisHarmonicConv2d | MixedHarmonicConv2d, stride: tuple[int, int], axis: Axis | None = None
    ) -> None:
        super().__init__(conv, stride)
        self.axis = axis

    def branches(self) -> list[AxisHarmonicConv2d]:
        """The harmonic convolutions, one an anchor."""
        branches = self.conv.branches if isinstance(self.conv, MixedHarmonicConv2d) else [self.conv]
        return [b for b in branches if isinstance(b, AxisHarmonicConv2d)]

    def set_axis(self, axis: Axis | None) -> Axis | None:
        axis = self.axis or axis
        if axis is None:
            raise ConfigError(NO_ORDER)
        self.conv.set_axis(axis)
        return axis.every(self.band_stride)

    def describe(self, bands: int) -> str:
        harmonics, frames = self.kernel().kernel_size
        anchors = [b.anchor for b in self.branches()]
        shares = [float(b.plan(bands).active.mean()) for b in self.branches()]
        return (
            f"harmonic {harmonics} x {frames}, anchor{'s' * (len(anchors) > 1)} {', '.join(map(str, anchors))}, "
            f"{sum(shares) / len(shares):.0%} on the axis"
        )

    def multiply_adds(self, before: Features, after: Features) -> float:
        """Harmonics beyond the axis are not computed, and not counted."""
        rows = sum(float(b.plan(before.bands).active.sum()) for b in self.branches())
        mixed = after.numbers() * self.conv.mix.in_channels if isinstance(self.conv, MixedHarmonicConv2d) else 0.0
        return self.multiply_adds_of_a_row(after) * rows + mixed

    def warnings(self, freqs: np.ndarray, key: str) -> Iterator[str]:
        axis = CentreAxis.of(freqs.tolist(), RESOLUTION)
        for branch in self.branches():
            for warning in (outside_axis(branch, len(freqs)), wrong_axis(branch, axis, len(freqs))):
                if warning:
                    yield f"{key}: {warning}"


def outside_axis(conv: AxisHarmonicConv2d, bands: int) -> str:
    """A warning where most harmonics lie outside the axis, or one always does; else ""."""
    active = conv.plan(bands).active  # [Kf, G]
    never = [str(k) for k, rows in enumerate(active, 1) if not rows.any()]
    if not never and active.mean() >= 1 - MAX_OUTSIDE:
        return ""
    always = f", harmonics {', '.join(never)} in every band" if never else ""
    return (
        f"{1 - active.mean():.0%} of its kernel rows (anchor {conv.anchor}) read nothing, "
        f"as harmonics lie outside the axis{always}"
    )


def wrong_axis(conv: AxisHarmonicConv2d, axis: Axis, bands: int) -> str:
    """A warning where the convolution reads harmonics elsewhere than they lie on the bands' `axis`; else ""."""
    harmonics = conv.kernel_size[0]
    read, true = (a.positions(bands, harmonics, conv.anchor) for a in (conv.axis, axis))
    inside = (read >= 0) & (read <= bands - 1) & (true >= 0) & (true <= bands - 1)
    if conv.anchor <= harmonics:
        inside[conv.anchor - 1] = False  # the band itself, on every axis
    distance = (read - true).abs()[inside]
    if not len(distance) or distance.mean() <= MAX_DISTANCE:
        return ""
    return (
        f"its axis ({conv.axis.describe()}) is not that of its bands: harmonics (anchor {conv.anchor}) "
        f"are read {float(distance.mean()):.1f} bands from where they lie, on average"
    )


@build_layer.register
def build_harmonic(config: HarmonicConfig, before: LayerInput) -> Layer:
    fixed = fixed_axis(config, before.bins_per_octave)
    axis = fixed or before.axis
    if axis is None:
        raise ConfigError(NO_ORDER)
    if config.axis == "centre_freqs" and isinstance(axis, LinearAxis):
        raise ConfigError("axis: expected auto or linear after a spectrogram, got centre_freqs")
    sizes = (before.channels, config.out_channels, config.kernel, config.stride)
    padding, dilation = (0, config.dilation * (config.kernel[1] // 2)), (1, config.dilation)
    conv: AxisHarmonicConv2d | MixedHarmonicConv2d
    if config.anchors is None:
        anchor = config.anchor or 1
        conv = AxisHarmonicConv2d(axis, *sizes, padding, dilation, config.groups, config.bias, anchor=anchor)
    else:
        conv = MixedHarmonicConv2d(axis, *sizes, padding, dilation, config.groups, config.bias, anchors=config.anchors)
    layer = HarmonicLayer(conv, config.stride, fixed)
    if config.init == "salience":
        assert config.decay is not None, "validation has filled it in"
        assert config.valley is not None
        for branch in layer.branches():
            init_salience_(branch, decay=config.decay, valley=config.valley)
        layer.drawn = config.anchors is not None or config.out_channels > 1
    return layer


def fixed_axis(config: HarmonicConfig, bins_per_octave: float | None) -> Axis | None:
    """The axis that a configuration sets; None where the layer follows its input's."""
    if config.axis == "linear":
        return LinearAxis()
    if config.axis == "log":
        bins_per_octave = config.bins_per_octave or bins_per_octave
        if bins_per_octave is None:
            raise ConfigError("bins_per_octave: expected with axis: log, where the frontend has no log scale itself")
        return LogAxis(bins_per_octave, 2.0)
    return None
