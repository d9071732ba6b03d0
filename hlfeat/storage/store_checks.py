"""What hlfeat.yaml says of features, as far as a store needs it, and whether folders go together."""

from __future__ import annotations

from typing import Any

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.storage.times import Timing, timing_of


def row_shape_of(description: dict[str, Any]) -> tuple[int, ...] | None:
    """(channels, bands), or (dims,) of pooled features; None where hlfeat.yaml does not say it."""
    features = description.get("features") or {}
    try:
        return (int(features["dims"]),) if features.get("pool") else (int(features["channels"]), int(features["bands"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def dtype_of(description: dict[str, Any]) -> np.dtype[Any] | None:
    """Of the features; None where hlfeat.yaml does not say it."""
    try:
        return np.dtype(str(description["config"]["output"]["dtype"]))
    except (KeyError, TypeError):
        return None


def check_features(folder: str, description: dict[str, Any]) -> None:
    """Raises OutputError for a directory of pitch tracks."""
    if description.get("pitch"):
        raise OutputError(f"{folder}: holds pitch tracks, a .f0.csv for each clip, and no features")


# Keys of hlfeat.yaml, below `features`, that earlier versions did not write. Folders with and without go together.
_LATER = {"freqs", "sample_rate", "first_centre_samples", "window_seconds", "window_hop_seconds"}


def _shared_keys(features: object) -> object:
    """What must be the same in all folders."""
    return {k: v for k, v in features.items() if k not in _LATER} if isinstance(features, dict) else features


def _timing_or_none(description: dict[str, Any], folder: str) -> Timing | None:
    try:
        return timing_of(description, folder)
    except OutputError:
        return None


def check_alike(*described: tuple[str, dict[str, Any]]) -> None:
    """Raises OutputError if the features of directories have not the same shape and frame rate."""
    for folder, description in described:
        check_features(folder, description)
    features = {folder: _shared_keys(description.get("features")) for folder, description in described}
    first, *others = features.values()
    if any(other != first for other in others):
        shapes = "; ".join(f"{folder} has {shape}" for folder, shape in features.items())
        raise OutputError(f"expected features of the same shape: {shapes}")
    timings = {folder: _timing_or_none(description, folder) for folder, description in described}
    known = {folder: timing for folder, timing in timings.items() if timing is not None}
    if len(set(known.values())) > 1:
        seconds = "; ".join(f"{folder} from {t.first_centre_samples:g} samples" for folder, t in known.items())
        raise OutputError(f"expected frames at the same times: {seconds}")
