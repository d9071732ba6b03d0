"""What a contact sheet shows: clips of a feature directory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.config.config import Config
from hlfeat.config.loading import config_from_dict
from hlfeat.errors import ConfigError, OutputError, UsageError
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.weights import load_weights
from hlfeat.plotting.clip_view import if_rising, stack_grid
from hlfeat.plotting.columns import Columns
from hlfeat.plotting.images import Grid, Image, Profile
from hlfeat.plotting.pitch_line import confident_hertz, line_of, wants_pitch
from hlfeat.storage.layout import Layout
from hlfeat.storage.place import shown_folder
from hlfeat.storage.store import FeatureStore
from hlfeat.storage.times import is_one_vector as one_vector
from hlfeat.storage.times import window_seconds

log = logging.getLogger("hlfeat")
PIECE = 1 << 14  # frames that are read at once


def stored(store: FeatureStore, ids: Sequence[str], channel: int = 0, pitch: bool | None = None) -> list[Image]:
    """Images of one channel of stored clips: of frames, or of means over windows. Clips are read piece by piece.

    Args:
        pitch: draw the pitch into them; None: if they are saliences.

    Raises:
        UsageError: there is no such id (the message names similar ones) or channel; each clip is pooled to one vector;
            `pitch` of features that have several channels, or rows without frequencies.
        OutputError: hlfeat.yaml is damaged.
    """
    source = _Source.of(store, channel)
    if one_vector(source.pool):
        raise UsageError(
            f"{shown_folder(store.folders[0])}: expected frames to draw, has one vector for each clip ({source.pool})"
        )
    if pitch is None and store.description.get("stats"):
        pitch = False  # a salience that is normalised row by row is none
    freqs, channels = source.freqs, source.extractor.n_channels
    with_line = wants_pitch(source.config, pitch, channels, freqs)
    images = []
    for id_ in ids:
        record = source.record(id_)
        start = float(record.get("start") or 0)
        grid = replace(source.grid((start, start + record["duration"])), freqs=freqs)
        columns, hertz = Columns(source.extractor.n_bands, record["frames"]), []
        for first in range(0, record["frames"], PIECE):
            rows = source.rows(id_, first, min(first + PIECE, record["frames"]))
            columns.add(rows)
            if with_line and freqs is not None:
                hertz.append(confident_hertz(rows, freqs))
        line = line_of(np.concatenate(hertz), grid, columns.block) if with_line else None
        images.append(Image(columns.values, columns.grid(grid), source.title, source.unit, source.title, line))
    return images


def profiles(store: FeatureStore, ids: Sequence[str], channel: int = 0) -> list[Profile]:
    """One channel of stored clips that are pooled to a vector each. Raises as `stored` does."""
    source = _Source.of(store, channel)
    found = []
    for id_ in ids:
        source.record(id_)
        mean, *deviation = source.halves(id_)
        kind = f"{source.title}: {'maximum' if source.pool == 'max' else 'mean'} over time"
        found.append(Profile(mean, deviation[0] if deviation else None, source.freqs, kind, source.unit))
    return found


def is_one_vector(store: FeatureStore) -> bool:
    """Whether each clip is pooled to one vector."""
    pool = (store.description.get("features") or {}).get("pool")
    return pool is not None and one_vector(str(pool))


@dataclass(frozen=True)
class _Source:
    """One channel of a store's features, and what they are.

    Attributes:
        freqs: of the rows; None where they have none, or these are not known.
        pool: how frames were pooled over time; None: they were not.
    """

    store: FeatureStore
    channel: int
    config: Config
    extractor: Extractor
    freqs: np.ndarray | None
    pool: str | None
    title: str
    unit: str

    @classmethod
    def of(cls, store: FeatureStore, channel: int) -> _Source:
        described = store.freqs
        config, extractor, freqs_known = _modules_of(store, described is not None)
        if not 0 <= channel < extractor.n_channels:
            raise UsageError(f"channel: expected 0 to {extractor.n_channels - 1}, got {channel}")
        if len(extractor.stack.layers):
            title, unit = f"stack, channel {channel} of {extractor.n_channels}", ""
        else:
            title, unit = extractor.frontend.quantities()[channel]
        if store.description.get("stats"):
            title, unit = f"{title}, normalised", "standard deviations"
        freqs = if_rising(extractor.output_freqs() if described is None else described) if freqs_known else None
        return cls(store, channel, config, extractor, freqs, config.output.pool, title, unit)

    def record(self, id_: str) -> dict[str, Any]:
        try:
            return self.store.record(id_)
        except KeyError as e:
            raise UsageError(e.args[0]) from e

    def grid(self, span: tuple[float, float]) -> Grid:
        """Where frames or windows lie, whose centres are drawn."""
        grid = stack_grid(self.extractor, span)
        window = window_seconds(self.pool)
        if window is None:
            return grid
        length, hop = map(float, window)
        return replace(grid, first=span[0] + length / 2, step=hop)

    def rows(self, id_: str, first: int, stop: int) -> np.ndarray:
        """Frames, or means over windows. Shape: float32 [F, n]."""
        features = self.store.read(id_, first, stop).reshape(stop - first, self.extractor.n_channels, -1)
        return np.ascontiguousarray(features[:, self.channel].T, np.float32)

    def halves(self, id_: str) -> np.ndarray:
        """A clip's only vector, or with mean+std its means and its standard deviations. Shape: [1 or 2, F]."""
        features = self.store.read(id_).reshape(-1, self.extractor.n_channels, self.extractor.n_bands)
        return np.array(features[:, self.channel], np.float32)


def _modules_of(store: FeatureStore, described: bool) -> tuple[Config, Extractor, bool]:
    """The configuration and the modules that computed a directory's features, and whether the frequencies of that run
    are known.

    Trained weights may move the bands. Where hlfeat.yaml does not say to where, because vectors are pooled or an
    earlier version wrote it, they are read from the file that the run used, if it is still the same.

    Args:
        described: whether hlfeat.yaml has the frequencies.
    """
    path = f"{shown_folder(store.folders[0])}/{Layout(Path()).description}"
    data = store.description.get("config")
    if not isinstance(data, dict):
        raise OutputError(f"{path}: damaged: there is no configuration in it")
    try:
        config = config_from_dict(data, source=path)
        extractor = build(config)
    except ConfigError as e:
        raise OutputError(f"{path}: damaged, or another version's: {e}") from e
    weights = store.description.get("weights")
    if described or not weights or not extractor.frontend.axis_parameters():
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
