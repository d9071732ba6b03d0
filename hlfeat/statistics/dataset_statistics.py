"""The statistics file: mean, variance, minimum and maximum of every channel and band of a set of features."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import ConfigError
from hlfeat.files import write_atomically
from hlfeat.statistics.fields import arrays_of, check_kind, check_not_negative, count_of

KIND = "statistics"  # the value of the key `hlfeat`
ARRAYS = ("mean", "variance", "min", "max")


@dataclass(frozen=True)
class Statistics:
    """Statistics of all frames of some clips, as `hlfeat stats` writes them and `Options(stats=...)` takes them.

    Attributes:
        fingerprint: of the configuration of the frames (`Config.frames_fingerprint`).
        clips, frames: the number of each.
        mean, min, max: float64, in the unit of the features.
        variance: float64, of the population: divided by the number of frames.
        pool: how the frames were pooled to vectors, of which `frames` are then; None: they were not.

    Shape: mean, variance, min, max [channels, bands], or [dims] of pooled vectors.

    >>> import numpy as np
    >>> frames = np.array([[[0.0, 1.0]], [[2.0, 1.0]]])  # [2 frames, 1 channel, 2 bands]
    >>> arrays = frames.mean(0), frames.var(0), frames.min(0), frames.max(0)
    >>> Statistics("fingerprint", 1, 2, *arrays).write("stats.json")
    >>> Statistics.read("stats.json").variance
    array([[1., 0.]])
    """

    fingerprint: str
    clips: int
    frames: int
    mean: np.ndarray
    variance: np.ndarray
    min: np.ndarray
    max: np.ndarray
    pool: str | None = None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, in which every number reads back to the bit. A file that exists is replaced.

        Raises:
            OSError: the file cannot be written.
        """
        pool = {} if self.pool is None else {"pool": self.pool}
        counts = {"fingerprint": self.fingerprint, **pool, "clips": self.clips, "frames": self.frames}
        arrays = {name: getattr(self, name).tolist() for name in ARRAYS}
        write_atomically(Path(path), (json.dumps({"hlfeat": KIND, **counts, **arrays}) + "\n").encode("ascii"))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read a file of `write` or of `hlfeat stats`.

        Raises:
            ConfigError: the file cannot be read, or is not a statistics file.
        """
        try:
            return _parse(json.loads(Path(path).read_bytes()))
        except OSError as e:
            raise ConfigError(f"{path}: cannot be read: {e.strerror}") from e
        except (ValueError, RecursionError) as e:
            raise ConfigError(f"{path}: not a statistics file: {e}") from e


def _parse(contents: Any) -> Statistics:
    fields = check_kind(contents, KIND)
    fingerprint = fields.get("fingerprint")
    if not isinstance(fingerprint, str):
        raise ValueError(f"fingerprint: expected text, got {fingerprint!r}")
    clips, frames = count_of(fields, "clips", 1), count_of(fields, "frames", 1)
    arrays = arrays_of(fields, ARRAYS)
    pool = fields.get("pool")
    if pool is not None and not isinstance(pool, str):
        raise ValueError(f"pool: expected text, got {pool!r}")
    if arrays["mean"].ndim != (2 if pool is None else 1):
        expected = "a list for each channel of a number for each band" if pool is None else "a number for each dim"
        raise ValueError(f"mean: expected {expected}")
    check_not_negative("variance", arrays["variance"])
    if (arrays["min"] > arrays["max"]).any():
        raise ValueError("min: expected at most max")
    return Statistics(fingerprint, clips, frames, **arrays, pool=pool)
