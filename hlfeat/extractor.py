"""Frontend and stack as one module: the only place where configuration meets torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hlfeat import compression, config, frontends, leaf, spacing, stack
from hlfeat.axes import Axis, AxisError, LinearAxis, LogAxis
from hlfeat.config import Config
from hlfeat.configfile import Key, config_from_dict, explained, load_config
from hlfeat.errors import ConfigError, LayerError
from hlfeat.gabor import parameter_key
from hlfeat.harmonic import MixedHarmonicConv2d, _HarmonicConv2d, centre_axis
from hlfeat.masking import Count
from hlfeat.weights import load_weights

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}


class Extractor(nn.Module):
    """Waveforms to features.

    Args:
        frontend: EfficientLeaf, Leaf, LogMel or Spectrogram.
        layers: what follows.

    Shape:
        - x: [B, T] or [B, 1, T] at frontend.sample_rate; lengths [B] samples, or None
        - output: [B, C, F, N]; frames past a clip's end are zero

    Attributes:
        n_channels, n_bands: C and F.
        hop: samples from frame to frame.
    """

    def __init__(self, frontend: frontends.Frontend, layers: Sequence[stack.Layer], shape: stack.Shape) -> None:
        super().__init__()
        self.frontend = frontend
        self.stack = stack.Stack(layers)
        self.n_channels, self.n_bands = shape.channels, shape.bands
        self.hop = frontend.hop * self.stack.stride
        self.sample_rate = frontend.sample_rate
        self._axis_of: object = None

    def num_frames(self, lengths: Count) -> Count:
        """Frames of clips of these lengths in samples, one or a tensor of them."""
        return self.stack.num_frames(self.frontend.num_frames(lengths))

    def follow_centre_freqs(self) -> None:
        """Let harmonic layers look for harmonics where the frontend's filters are now.

        Needs the frequencies on the host, so it is done when they have changed and not on every call.
        """
        if not isinstance(self.frontend, leaf.LearnableFrontend) or not len(self.stack.layers):
            return
        key = parameter_key([self.frontend.filterbank.center_freqs])
        if key != self._axis_of:
            self.stack.set_axis(centre_axis(self.frontend.centre_freqs()))
            self._axis_of = key

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.follow_centre_freqs()
        frames = None if lengths is None else self.frontend.num_frames(lengths)
        return self.layers(self.frontend(x, lengths), frames)

    def layers(self, y: Tensor, frames: Tensor | None = None) -> Tensor:
        """The stack: y [B, F, N] or [B, C, F, N] of the frontend, frames [B] or None -> [B, C, F, N]."""
        if y.dim() == 3:
            y = y[:, None]  # [B, 1, F, N]
        return self.stack(y, frames)[0]  # type: ignore[no-any-return]


def build(
    configuration: Config | Mapping[str, Any] | str | Path = "eleaf-8g-opt",
    *,
    weights: str | Path | None = None,
) -> Extractor:
    """The modules that a configuration describes, in training mode, ready to train or to extract with.

    Args:
        configuration: a Config, plain data, the name of a shipped configuration, or the path of a YAML file.
        weights: `.pt` (read with weights_only) or `.safetensors`; without, the stack's weights are drawn from `seed`.

    Raises:
        ConfigError: with the key that cannot be, or the weights that do not fit.
    """
    if isinstance(configuration, str | Path):
        with explained(configuration):
            return build(load_config(configuration), weights=weights)
    if not isinstance(configuration, Config):
        configuration = config_from_dict(configuration)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(configuration.seed)  # the CPU's alone: a GPU's is the caller's
        try:
            frontend = build_frontend(configuration)
        except ValueError as e:
            raise ConfigError(f"frontend: {e}") from e
        axis = frontend_axis(configuration.frontend, frontend) if configuration.stack else None
        bands = stack.Shape(frontend.n_channels, frontend.n_bands, axis)
        try:
            layers, shape = build_layers(configuration.stack, bands, configuration.frontend, ("stack",))
        except RuntimeError as e:  # torch, of a size that no memory holds
            raise ConfigError(f"stack: cannot be built: {' '.join(str(e).split())[:120]}") from e
    extractor = Extractor(frontend, layers, shape)
    if weights is not None:
        load_weights(extractor, Path(weights))
        try:
            extractor.follow_centre_freqs()
        except AxisError as e:
            raise ConfigError(f"{weights}: {e}") from e
    return extractor


def build_frontend(configuration: Config) -> frontends.Frontend:
    """The frontend of a configuration."""
    rate, f = configuration.audio.sample_rate, configuration.frontend
    if isinstance(f, config.LogMel):
        return frontends.LogMel(
            f.n_filters, f.min_freq, f.max_freq, rate, f.window_len, f.window_stride, n_fft=f.n_fft, floor=f.floor
        )
    if isinstance(f, config.Spectrogram):
        return frontends.Spectrogram(
            rate, f.window_len, f.window_stride, n_fft=f.n_fft, n_bands=f.n_bands, floor=f.floor
        )
    constants = f.compression.model_dump(exclude={"kind"})
    kind = compression.PCEN if isinstance(f.compression, config.PCEN) else compression.LogTBN
    compress = kind(f.n_filters, **constants)
    top, window, scale = f.top_freq(), (f.window_len, f.window_stride), cast("spacing.Scale", f.scale)
    if isinstance(f, config.Leaf):
        return leaf.Leaf(f.n_filters, f.min_freq, top, rate, *window, compress, scale=scale)
    widths = (f.conv_win_factor, f.stride_factor)
    return leaf.EfficientLeaf(f.n_filters, f.num_groups, f.min_freq, top, rate, *window, *widths, compress, scale=scale)


def frontend_axis(configuration: config.Frontend, frontend: frontends.Frontend) -> Axis:
    """Where the bands lie that a stack begins with."""
    if isinstance(frontend, frontends.Spectrogram):
        return LinearAxis()
    try:
        return centre_axis(frontend.centre_freqs())
    except AxisError as e:  # a mel matrix has several filters in one bin
        scale = configuration.scale if isinstance(configuration, config.Filters) else "mel"
        raise LayerError(("frontend", "scale"), f"({scale}): {e}; take scale: mel, or fewer n_filters") from e


def build_layers(
    layers: Sequence[config.Layer], shape: stack.Shape, frontend: config.Frontend, key: Key
) -> tuple[list[stack.Layer], stack.Shape]:
    """The layers of a stack, and the shape they leave behind."""
    built = []
    for i, layer in enumerate(layers):
        try:
            module, shape = build_layer(layer, shape, frontend, (*key, i))
        except LayerError:
            raise  # a layer inside a residual block has said where
        except (ValueError, ConfigError) as e:
            raise LayerError((*key, i), f"({layer.layer}): {e}") from e
        built.append(module)
    return built, shape


def build_layer(
    layer: config.Layer, shape: stack.Shape, frontend: config.Frontend, key: Key
) -> tuple[stack.Layer, stack.Shape]:
    """One layer, told the shape and the axis of its input."""
    channels, bands, axis = shape
    module: stack.Layer
    if isinstance(layer, config.Harmonic):
        own = own_axis(layer, frontend)
        axis = own or axis
        if axis is None:
            raise ConfigError("expected bands in the order of their frequency, but a projection came before")
        if layer.axis == "centre_freqs" and isinstance(axis, LinearAxis):
            raise ConfigError("axis: expected auto or linear after a spectrogram, got centre_freqs")
        sizes = (channels, layer.out_channels, layer.kernel, layer.stride)
        padding, dilation = (0, layer.dilation * (layer.kernel[1] // 2)), (1, layer.dilation)
        if layer.anchors is None:
            conv: nn.Module = _HarmonicConv2d(
                axis, *sizes, padding, dilation, layer.groups, layer.bias, anchor=layer.anchor or 1
            )
        else:
            conv = MixedHarmonicConv2d(axis, *sizes, padding, dilation, layer.groups, layer.bias, anchors=layer.anchors)
        module = stack.ConvLayer(conv, layer.stride, own)  # type: ignore[arg-type]
        channels, bands = layer.out_channels, -(-bands // layer.stride[0])
    elif isinstance(layer, config.Conv):
        if channels % layer.groups or layer.out_channels % layer.groups:
            raise ConfigError(
                f"groups: expected a divisor of {channels} and {layer.out_channels} channels, got {layer.groups}"
            )
        conv = nn.Conv2d(
            channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            stack.same_padding(layer.kernel, layer.dilation),
            layer.dilation,
            layer.groups,
            layer.bias,
        )
        module = stack.ConvLayer(conv, layer.stride)
        channels, bands = layer.out_channels, -(-bands // layer.stride[0])
    elif isinstance(layer, config.Norm):
        if layer.kind == "batch":
            module = stack.BatchNorm(channels, layer.affine)
        elif layer.kind == "layer":
            module = stack.LayerNorm(channels, bands, layer.affine)
        else:
            module = stack.InstanceNorm(channels, layer.affine)
    elif isinstance(layer, config.Activation):
        module = stack.Activation(ACTIVATIONS[layer.kind]())
    elif isinstance(layer, config.Pool):
        if layer.bands > bands:
            raise ConfigError(f"bands: expected at most the {bands} there are, got {layer.bands}")
        module = stack.Pool(layer.kind, layer.bands, layer.frames)
        bands //= layer.bands
    elif isinstance(layer, config.Projection):
        module = stack.Projection(channels * bands, layer.features, layer.bias)
        channels, bands = 1, layer.features
    else:
        return build_residual(layer, shape, frontend, key)
    return module, stack.Shape(channels, bands, module.set_axis(axis))


def build_residual(
    layer: config.Residual, shape: stack.Shape, frontend: config.Frontend, key: Key
) -> tuple[stack.Layer, stack.Shape]:
    """A residual block; its shortcut is chosen by what its body does to the shape."""
    built, inner = build_layers(layer.layers, shape, frontend, (*key, "layers"))
    body = stack.Stack(built)
    strides = [m for m in built if m.stride > 1 or getattr(m, "band_stride", 1) > 1]
    if any(not isinstance(m, stack.ConvLayer) for m in strides) or (inner.bands != shape.bands and not strides):
        raise ConfigError("expected convolutions, norms and activations in a residual block, not pools or projections")
    band_stride = 1
    for m in strides:
        band_stride *= getattr(m, "band_stride", 1)
    if inner.channels == shape.channels and not strides:
        return stack.Residual(body, nn.Identity()), inner
    shortcut = nn.Conv2d(shape.channels, inner.channels, 1, (band_stride, body.stride))
    return stack.Residual(body, shortcut), inner


def own_axis(layer: config.Harmonic, frontend: config.Frontend) -> Axis | None:
    """The axis that a layer insists on, or None where it follows its input's."""
    if layer.axis == "linear":
        return LinearAxis()
    if layer.axis == "log":
        if layer.bins_per_octave is not None:
            return LogAxis(layer.bins_per_octave, 2.0)
        if isinstance(frontend, config.Filters) and (per_octave := frontend.bins_per_octave()) is not None:
            return LogAxis(per_octave, 2.0)
        raise ConfigError("bins_per_octave: expected with axis: log, where the frontend has no log scale itself")
    return None
