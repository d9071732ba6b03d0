"""What a contact sheet shows: clips of a feature directory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hlfeat.config.config import Config
from hlfeat.config.loading import config_from_dict
from hlfeat.errors import ConfigError, OutputError, UsageError
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.weights import load_weights
from hlfeat.plotting.clip_view import stack_grid
from hlfeat.plotting.images import Image
from hlfeat.plotting.pitch_line import with_pitch
from hlfeat.storage.layout import Layout
from hlfeat.storage.store import FeatureStore

log = logging.getLogger("hlfeat")


def evenly(ids: Sequence[str], most: int = 12) -> list[str]:
    """At most `most` of the ids, evenly spaced, with the first and the last."""
    places = np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int)
    return [ids[i] for i in places]


def stored(store: FeatureStore, ids: Sequence[str], channel: int = 0, pitch: bool | None = None) -> list[Image]:
    """Images of one channel of stored clips.

    Args:
        pitch: draw the pitch into them; None: if they are saliences.

    Raises:
        UsageError: there is no such id (the message names similar ones) or channel; features are pooled over time;
            `pitch` of features that have several channels, or rows without frequencies.
        OutputError: hlfeat.yaml is damaged.
    """
    config, extractor, freqs_known = _modules_of(store)
    pool = (store.description.get("features") or {}).get("pool")
    if pool is not None:
        raise UsageError(f"{store.folders[0]}: expected frames to draw, has vectors pooled over time ({pool})")
    if not 0 <= channel < extractor.n_channels:
        raise UsageError(f"channel: expected 0 to {extractor.n_channels - 1}, got {channel}")
    if len(extractor.stack.layers):
        title, unit = f"stack, channel {channel} of {extractor.n_channels}", ""
    else:
        title, unit = extractor.frontend.quantities()[channel]
    if store.description.get("stats"):
        title, unit = f"{title}, normalised", "standard deviations"
    images = []
    for id_ in ids:
        try:
            features = store[id_]
        except KeyError as e:
            raise UsageError(e.args[0]) from e
        start = float(store.record(id_).get("start") or 0)
        grid = stack_grid(extractor, (start, start + store.record(id_)["duration"]))
        grid = grid if freqs_known else replace(grid, freqs=None)
        images.append(Image(np.array(features[:, channel].T, np.float32), grid, title, unit, title))
    if pitch is None and store.description.get("stats"):
        pitch = False  # a salience that is normalised row by row is none
    return with_pitch(images, config, pitch, extractor.n_channels)


def _modules_of(store: FeatureStore) -> tuple[Config, Extractor, bool]:
    """The configuration and the modules that computed a directory's features, and whether their bands have the
    frequencies of that run.

    Trained weights may move the bands. They are read from the file that the run used, if it is still the same.
    """
    path = Layout(store.folders[0]).description
    data = store.description.get("config")
    if not isinstance(data, dict):
        raise OutputError(f"{path}: damaged: there is no configuration in it")
    try:
        config = config_from_dict(data, source=str(path))
        extractor = build(config)
    except ConfigError as e:
        raise OutputError(f"{path}: damaged, or another version's: {e}") from e
    weights = store.description.get("weights")
    if not weights or not extractor.frontend.axis_parameters():
        return config, extractor, True
    file = Path(str(weights.get("path")))
    try:
        trained = copy.deepcopy(extractor)
        if load_weights(trained, file) != weights.get("sha256"):
            raise ConfigError(f"{file}: the weights have changed since")
    except ConfigError as e:
        log.warning("bands are numbered, because their frequencies are in the weights: %s", e)
        return config, extractor, False
    return config, trained, True
