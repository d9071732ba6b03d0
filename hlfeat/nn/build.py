"""build: the modules of a configuration, frontend and stack as one Extractor, with weights or without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hlfeat.config.config import Config
from hlfeat.config.filters import FiltersConfig
from hlfeat.config.loading import config_from_dict, explained, load_config
from hlfeat.errors import AxisError, ConfigError
from hlfeat.nn.axes import Axis
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.base import Frontend
from hlfeat.nn.frontends.registry import build_frontend
from hlfeat.nn.layers.base import Layer, LayerInput
from hlfeat.nn.layers.registry import build_layers
from hlfeat.nn.weights import load_weights


def build(
    configuration: Config | Mapping[str, Any] | str | Path = "eleaf-8g-opt",
    *,
    weights: str | Path | None = None,
) -> Extractor:
    """The modules that a configuration describes, in training mode, ready to train or to extract with.

    Args:
        configuration: a Config, plain data, the name of a shipped configuration, or the path of a YAML file.
        weights: `.pt` (read with weights_only) or `.safetensors`. Without, the weights of the stack are drawn from the
            configuration's `seed`; torch's random generators keep their state.

    Returns:
        An Extractor on the CPU: samples [B, T] at its `sample_rate` -> features [B, C, F, N].

    Raises:
        ConfigError: names the key whose value is impossible, or the weights that do not fit.

    Example:
        >>> import hlfeat, torch
        >>> extractor = hlfeat.build("eleaf-harmonic").eval()
        >>> extractor.sample_rate, extractor.hop, extractor.n_channels, extractor.n_bands
        (16000, 160, 4, 80)
        >>> extractor(torch.zeros(1, 16000)).shape
        torch.Size([1, 4, 80, 100])
    """
    if isinstance(configuration, str | Path):
        with explained(configuration):
            return build(load_config(configuration), weights=weights)
    if not isinstance(configuration, Config):
        configuration = config_from_dict(configuration)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(configuration.seed)  # the CPU's only: parts are made there
        try:
            frontend = build_frontend(configuration.frontend, configuration.audio.sample_rate)
        except ValueError as e:
            raise ConfigError(f"frontend: {e}") from e
        axis = frontend.axis() if configuration.stack else None
        extractor = Extractor(frontend, build_stack(configuration, frontend, axis))
    if weights is not None:
        load_weights(extractor, Path(weights))
        try:
            extractor.follow_centre_freqs()
        except AxisError as e:
            raise ConfigError(f"{weights}: {e}") from e
    return extractor


def build_stack(configuration: Config, frontend: Frontend, axis: Axis | None) -> list[Layer]:
    """The layers after a frontend whose bands lie on this axis."""
    f = configuration.frontend
    bins_per_octave = f.spacing_per_octave() if isinstance(f, FiltersConfig) else None
    before = LayerInput(frontend.n_channels, frontend.n_bands, axis, bins_per_octave)
    try:
        return build_layers(configuration.stack, before)[0]
    except RuntimeError as e:  # from torch, for a size that no memory holds
        raise ConfigError(f"stack: cannot be built: {' '.join(str(e).split())[:120]}") from e
