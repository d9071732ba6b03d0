"""What a contact sheet shows: clips of a feature directory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hlfeat.config.loading import config_from_dict
from hlfeat.errors import ConfigError, OutputError, UsageError
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.weights import fit, read_state
from hlfeat.plotting.clip_view import Image, stack_grid
from hlfeat.storage.layout import Layout
from hlfeat.storage.store import FeatureStore

log = logging.getLogger("hlfeat")


# --- feature directories --------------------------------------------------------------------------------------


def evenly(ids: Sequence[str], most: int = 12) -> list[str]:
    """At most so many of the ids, the first and the last among them, equally far apart."""
    at = np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int)
    return [ids[i] for i in at]


def stored(store: FeatureStore, ids: Sequence[str], channel: int = 0) -> list[Image]:
    """A channel of clips of a feature directory.

    Raises:
        UsageError: no such id (the nearest are named) or channel; vectors that were pooled over time.
        OutputError: hlfeat.yaml is damaged.
    """
    extractor, placed = _modules_of(store)
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
        grid = grid if placed else replace(grid, freqs=None)
        images.append(Image(np.array(features[:, channel].T, np.float32), grid, title, unit, title))
    return images


def _modules_of(store: FeatureStore) -> tuple[Extractor, bool]:
    """The modules that a directory's features come from, and whether their bands are where they were in the run."""
    path = Layout(store.folders[0]).description
    data = store.description.get("config")
    if not isinstance(data, dict):
        raise OutputError(f"{path}: damaged: there is no configuration in it")
    try:
        extractor = build(config_from_dict(data, source=str(path)))
    except ConfigError as e:
        raise OutputError(f"{path}: damaged, or another version's: {e}") from e
    weights = store.description.get("weights")
    if not weights or not extractor.frontend.axis_parameters():
        return extractor, True
    file = Path(str(weights.get("path")))
    try:
        state, digest = read_state(file)
        if digest != weights.get("sha256"):
            raise ConfigError(f"{file}: the weights have changed since")
        own = extractor if any(k.startswith(("frontend.", "stack.")) for k in state) else extractor.frontend
        fit(own, state, file)
    except ConfigError as e:
        log.warning("bands are numbered, because their frequencies are in the weights: %s", e)
        return extractor, False
    return extractor, True
