"""A shard's statistics beside it: moments of what was written, and clips that are silent or never change."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.statistics.moments import Moments, no_moments

KIND = "shard statistics"  # what the key `hlfeat` says
ARRAYS = ("mean", "m2", "min", "max")


@dataclass
class ShardStatistics:
    """Of the clips of one shard, in order.

    Attributes:
        moments: of all frames.
        clips: how many there are.
        silent: ids of clips whose samples are all 0.
        constant: ids of clips of two frames or more that are all the same.
    """

    moments: Moments
    clips: int = 0
    silent: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, *shape: int) -> ShardStatistics:
        """Of no clips yet, whose frames have this shape."""
        return cls(no_moments(*shape))

    def add(self, id_: str, moments: Moments, silent: bool) -> None:
        """Count a clip in."""
        self.moments += moments
        self.clips += 1
        if silent:
            self.silent.append(id_)
        if moments.constant:
            self.constant.append(id_)

    def dump(self) -> bytes:
        """As JSON; every number reads back as it is."""
        arrays = {name: getattr(self.moments, name).tolist() for name in ARRAYS}
        ids = {"silent": self.silent, "constant": self.constant}
        told = {"hlfeat": KIND, "clips": self.clips, "frames": self.moments.frames, **arrays, **ids}
        return (json.dumps(told) + "\n").encode("ascii")


def read_shard_statistics(path: Path, *shape: int) -> ShardStatistics | None:
    """What `ShardStatistics.dump` made; None where there is no such file: earlier versions wrote none.

    Raises OutputError where something else is there.
    """
    try:
        return _statistics(json.loads(path.read_bytes()), shape)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise OutputError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, TypeError, OverflowError, RecursionError) as e:
        raise OutputError(f"{path}: damaged: {e}") from e


def _statistics(told: Any, shape: tuple[int, ...]) -> ShardStatistics:
    """Raises ValueError or TypeError for what is not a sidecar's contents."""
    if not isinstance(told, dict) or told.get("hlfeat") != KIND:
        raise ValueError(f'expected an object with "hlfeat": "{KIND}"')
    for key in ("clips", "frames"):
        if type(told.get(key)) is not int or told[key] < 0:
            raise ValueError(f"{key}: expected a whole number, got {told.get(key)!r}")
    for key in ("silent", "constant"):
        if not isinstance(told.get(key), list) or not all(isinstance(id_, str) for id_ in told[key]):
            raise ValueError(f"{key}: expected a list of ids")
    arrays = {key: np.array(told.get(key), np.float64) for key in ARRAYS}
    for key, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{key}: expected the features' shape {shape}, got {array.shape}")
        if told["frames"] and not np.isfinite(array).all():
            raise ValueError(f"{key}: expected finite numbers")
    if (arrays["m2"] < 0).any():
        raise ValueError("m2: expected numbers from 0")
    return ShardStatistics(Moments(told["frames"], **arrays), told["clips"], told["silent"], told["constant"])
