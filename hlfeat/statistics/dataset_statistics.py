"""The statistics file: mean, variance, least and greatest of every channel and band of a set of features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import ConfigError
from hlfeat.files import write_atomically

KIND = "statistics"  # what the key `hlfeat` says
ARRAYS = ("mean", "variance", "min", "max")


@dataclass(frozen=True)
class Statistics:
    """Of all frames of some clips.

    Attributes:
        fingerprint: of the frames (see `Config.frames_fingerprint`).
        clips, frames: how many there were.
        mean, min, max: float64.
        variance: of the population (divided by the frames), float64.

    Shape: mean, variance, min, max [channels, bands].
    """

    fingerprint: str
    clips: int
    frames: int
    mean: np.ndarray
    variance: np.ndarray
    min: np.ndarray
    max: np.ndarray

    def write(self, path: Path) -> None:
        """As JSON; every number reads back as it is."""
        counts = {"fingerprint": self.fingerprint, "clips": self.clips, "frames": self.frames}
        arrays = {name: getattr(self, name).tolist() for name in ARRAYS}
        write_atomically(path, (json.dumps({"hlfeat": KIND, **counts, **arrays}) + "\n").encode("ascii"))


def read_statistics(path: Path) -> Statistics:
    """What `Statistics.write` wrote.

    Raises ConfigError where that is not what is there.
    """
    try:
        return _statistics(json.loads(path.read_bytes()))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: not a statistics file: {e}") from e


def _statistics(told: Any) -> Statistics:
    """Raises ValueError for what is no statistics file's contents."""
    if not isinstance(told, dict) or told.get("hlfeat") != KIND:
        raise ValueError(f'expected an object with "hlfeat": "{KIND}"')
    if not isinstance(told.get("fingerprint"), str):
        raise ValueError(f"fingerprint: expected text, got {told.get('fingerprint')!r}")
    for key in ("clips", "frames"):
        if type(told.get(key)) is not int or told[key] < 1:
            raise ValueError(f"{key}: expected a whole number from 1, got {told.get(key)!r}")
    arrays = {key: _array(key, told.get(key)) for key in ARRAYS}
    shape = arrays["mean"].shape
    for key, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{key}: expected channels x bands {shape} as the mean has, got {array.shape}")
    if (arrays["variance"] < 0).any():
        raise ValueError(f"variance: expected numbers from 0, got {arrays['variance'].min()}")
    if (arrays["min"] > arrays["max"]).any():
        raise ValueError("min: expected at most max")
    return Statistics(told["fingerprint"], told["clips"], told["frames"], **arrays)


def _array(key: str, rows: Any) -> np.ndarray:
    """Shape: -> [channels, bands]."""
    numbers = isinstance(rows, list) and all(
        isinstance(row, list) and row and len(row) == len(rows[0]) and all(type(x) in (int, float) for x in row)
        for row in rows
    )
    if not numbers or not rows:
        raise ValueError(f"{key}: expected a list for each channel of a number for each band")
    try:
        array = np.array(rows, np.float64)
    except OverflowError as e:
        raise ValueError(f"{key}: expected finite numbers") from e
    if not np.isfinite(array).all():
        raise ValueError(f"{key}: expected finite numbers")
    return array
