"""Building layers from their configuration, by the configuration's class.

A new layer is a configuration class in hlfeat/config/layers.py, named in its union `LayerConfig`, and in a module of
this folder a Layer with a function `@build_layer.register` that builds it. Nothing lists the modules: all of this
folder are imported when the first stack is built.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import replace

from hlfeat.config.base import StrictModel
from hlfeat.config.layers import LayerConfig
from hlfeat.errors import ConfigError, LayerError
from hlfeat.nn import layers
from hlfeat.nn.layers.base import Layer, LayerInput


@functools.singledispatch
def build_layer(config: StrictModel, before: LayerInput) -> Layer:
    """The layer of a configuration, for this input; its axis is set afterwards.

    Raises:
        ConfigError, ValueError: what cannot be built for this input; build_layers adds the layer's place.
    """
    raise ConfigError(f"expected a function registered for {type(config).__name__} in hlfeat/nn/layers, found none")


def build_layers(configs: Sequence[LayerConfig], before: LayerInput) -> tuple[list[Layer], LayerInput]:
    """The layers of a stack, and the input of what follows them.

    Args:
        configs: the layers' configurations, in order.
        before: the input of the first; its key is that of the list.

    Raises:
        LayerError: names the layer that cannot be built.
    """
    _import_modules()
    built, after = [], before
    for i, config in enumerate(configs):
        key = (*before.key, i)
        try:
            layer = build_layer(config, replace(after, key=key))
            channels, bands = layer.output_size(after.channels, after.bands)
            after = replace(after, channels=channels, bands=bands, axis=layer.set_axis(after.axis))
        except LayerError:
            raise  # a layer inside a residual block, which has said where
        except (ValueError, ConfigError) as e:
            raise LayerError(key, f"({config.layer}): {e}") from e
        built.append(layer)
    return built, after


@functools.cache
def _import_modules() -> None:
    """Import all modules of this folder, so that their layers are registered."""
    for module in pkgutil.iter_modules(layers.__path__, f"{layers.__name__}."):
        importlib.import_module(module.name)
