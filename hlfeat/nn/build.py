"""Frontend and stack as one module: the only place where configuration meets torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hlfeat.config import frontends as config_frontends
from hlfeat.config import layers as config_layers
from hlfeat.config.config import Config
from hlfeat.config.loading import config_from_dict, explained, load_config
from hlfeat.config.yaml12 import Key
from hlfeat.errors import AxisError, ConfigError, LayerError
from hlfeat.nn.axes import Axis, LinearAxis, LogAxis
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.base import Frontend
from hlfeat.nn.frontends.registry import build_frontend
from hlfeat.nn.harmonic.modules import AxisHarmonicConv2d, MixedHarmonicConv2d
from hlfeat.nn.layers import base as layers_base
from hlfeat.nn.layers import conv as layers_conv
from hlfeat.nn.layers import norm, pooling
from hlfeat.nn.weights import load_weights

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
            frontend = build_frontend(configuration.frontend, configuration.audio.sample_rate)
        except ValueError as e:
            raise ConfigError(f"frontend: {e}") from e
        axis = frontend_axis(configuration.frontend, frontend) if configuration.stack else None
        bands = layers_base.Shape(frontend.n_channels, frontend.n_bands, axis)
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


def frontend_axis(configuration: config_frontends.FrontendConfig, frontend: Frontend) -> Axis:
    """Where the bands lie that a stack begins with."""
    try:
        return frontend.axis()
    except AxisError as e:  # a mel matrix has several filters in one bin
        if not isinstance(configuration, config_frontends.FiltersConfig):
            raise ConfigError(f"frontend: {e}") from e
        scale = configuration.scale
        raise LayerError(("frontend", "scale"), f"({scale}): {e}; take scale: mel, or fewer n_filters") from e


def build_layers(
    layers: Sequence[config_layers.LayerConfig],
    shape: layers_base.Shape,
    frontend: config_frontends.FrontendConfig,
    key: Key,
) -> tuple[list[layers_base.Layer], layers_base.Shape]:
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
    layer: config_layers.LayerConfig, shape: layers_base.Shape, frontend: config_frontends.FrontendConfig, key: Key
) -> tuple[layers_base.Layer, layers_base.Shape]:
    """One layer, told the shape and the axis of its input."""
    channels, bands, axis = shape
    module: layers_base.Layer
    if isinstance(layer, config_layers.HarmonicConfig):
        own = own_axis(layer, frontend)
        axis = own or axis
        if axis is None:
            raise ConfigError("expected bands in the order of their frequency, but a projection came before")
        if layer.axis == "centre_freqs" and isinstance(axis, LinearAxis):
            raise ConfigError("axis: expected auto or linear after a spectrogram, got centre_freqs")
        sizes = (channels, layer.out_channels, layer.kernel, layer.stride)
        padding, dilation = (0, layer.dilation * (layer.kernel[1] // 2)), (1, layer.dilation)
        if layer.anchors is None:
            conv: nn.Module = AxisHarmonicConv2d(
                axis, *sizes, padding, dilation, layer.groups, layer.bias, anchor=layer.anchor or 1
            )
        else:
            conv = MixedHarmonicConv2d(axis, *sizes, padding, dilation, layer.groups, layer.bias, anchors=layer.anchors)
        module = layers_conv.ConvLayer(conv, layer.stride, own)  # type: ignore[arg-type]
        channels, bands = layer.out_channels, -(-bands // layer.stride[0])
    elif isinstance(layer, config_layers.ConvConfig):
        if channels % layer.groups or layer.out_channels % layer.groups:
            raise ConfigError(
                f"groups: expected a divisor of {channels} and {layer.out_channels} channels, got {layer.groups}"
            )
        conv = nn.Conv2d(
            channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            layers_conv.same_padding(layer.kernel, layer.dilation),
            layer.dilation,
            layer.groups,
            layer.bias,
        )
        module = layers_conv.ConvLayer(conv, layer.stride)
        channels, bands = layer.out_channels, -(-bands // layer.stride[0])
    elif isinstance(layer, config_layers.NormConfig):
        if layer.kind == "batch":
            module = norm.BatchNorm(channels, layer.affine)
        elif layer.kind == "layer":
            module = norm.LayerNorm(channels, bands, layer.affine)
        else:
            module = norm.InstanceNorm(channels, layer.affine)
    elif isinstance(layer, config_layers.ActivationConfig):
        module = norm.Activation(ACTIVATIONS[layer.kind]())
    elif isinstance(layer, config_layers.PoolConfig):
        if layer.bands > bands:
            raise ConfigError(f"bands: expected at most the {bands} there are, got {layer.bands}")
        module = pooling.Pool(layer.kind, layer.bands, layer.frames)
        bands //= layer.bands
    elif isinstance(layer, config_layers.ProjectionConfig):
        module = layers_conv.Projection(channels * bands, layer.features, layer.bias)
        channels, bands = 1, layer.features
    else:
        return build_residual(layer, shape, frontend, key)
    return module, layers_base.Shape(channels, bands, module.set_axis(axis))


def build_residual(
    layer: config_layers.ResidualConfig, shape: layers_base.Shape, frontend: config_frontends.FrontendConfig, key: Key
) -> tuple[layers_base.Layer, layers_base.Shape]:
    """A residual block; its shortcut is chosen by what its body does to the shape."""
    built, inner = build_layers(layer.layers, shape, frontend, (*key, "layers"))
    body = layers_base.Stack(built)
    strides = [m for m in built if m.stride > 1 or getattr(m, "band_stride", 1) > 1]
    if any(not isinstance(m, layers_conv.ConvLayer) for m in strides) or (inner.bands != shape.bands and not strides):
        raise ConfigError("expected convolutions, norms and activations in a residual block, not pools or projections")
    band_stride = 1
    for m in strides:
        band_stride *= getattr(m, "band_stride", 1)
    if inner.channels == shape.channels and not strides:
        return layers_base.Residual(body, nn.Identity()), inner
    shortcut = nn.Conv2d(shape.channels, inner.channels, 1, (band_stride, body.stride))
    return layers_base.Residual(body, shortcut), inner


def own_axis(layer: config_layers.HarmonicConfig, frontend: config_frontends.FrontendConfig) -> Axis | None:
    """The axis that a layer insists on, or None where it follows its input's."""
    if layer.axis == "linear":
        return LinearAxis()
    if layer.axis == "log":
        if layer.bins_per_octave is not None:
            return LogAxis(layer.bins_per_octave, 2.0)
        if (
            isinstance(frontend, config_frontends.FiltersConfig)
            and (per_octave := frontend.bins_per_octave()) is not None
        ):
            return LogAxis(per_octave, 2.0)
        raise ConfigError("bins_per_octave: expected with axis: log, where the frontend has no log scale itself")
    return None
