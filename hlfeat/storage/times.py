"""When each row of a clip's features is: the centre of a frame or window, and the seconds that it stands for.

Seconds count from the beginning of the clip: those of a segment from the segment's start. Row i of frames is centred on
sample `first_centre_samples + i * hop_samples`, at the configuration's sample rate. Sums are of whole or half samples,
which float64 has exactly, and one division rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import OutputError

_WINDOW = "window:"  # how a pool of windows begins


@dataclass(frozen=True, slots=True)
class Timing:
    """Where rows lie in time.

    Attributes:
        sample_rate: hertz, of the samples that the others count.
        hop_samples: from a frame to the next.
        first_centre_samples: from the beginning of the clip to the centre of its first frame.
        pool: how frames were pooled, as `output.pool` of the configuration; None: rows are frames.
    """

    sample_rate: int
    hop_samples: int
    first_centre_samples: float
    pool: str | None = None

    def times(self, rows: int, duration: float) -> np.ndarray:
        """Centres in seconds of the rows of a clip, which lasts `duration` seconds.

        Frames are at equal distances. The last one of a stack that pools over time may be centred past the clip's end,
        because it has the frames that are left. The centre of a window is the middle of its interval, and so is that
        of a clip that is pooled as a whole.

        Shape: -> float64 [rows].
        """
        if self.pool is not None:
            return self.intervals(rows, duration).mean(1)  # type: ignore[no-any-return]
        samples = self.first_centre_samples + self.hop_samples * np.arange(rows, dtype=np.float64)
        return samples / self.sample_rate

    def intervals(self, rows: int, duration: float) -> np.ndarray:
        """Start and end in seconds of what each row stands for.

        A frame stands for all moments that are nearer to its centre than to another's: from half-way between two
        centres to the next half-way, the first from 0, the last to the end of the clip. A window stands for the
        seconds that `output.pool` asks for, up to the end of the clip: it pools frames i with start <= i * hop < end.
        A row of a clip that is pooled as a whole stands for all of the clip.

        Shape: -> float64 [rows, 2].
        """
        if self.pool is None:
            centres = self.times(rows + 1, duration)
            edges = (centres[1:] + centres[:-1]) / 2
            starts, ends = np.concatenate([[0.0], edges[:-1]])[:rows], edges
            ends[rows - 1 :] = duration  # a part of a hop more or less than half
        elif (window := window_seconds(self.pool)) is not None:
            length, hop = window
            starts = _multiples(hop, Fraction(0), rows)
            ends = np.minimum(_multiples(hop, length, rows), duration)
        else:
            starts, ends = np.zeros(rows), np.full(rows, float(duration))
        return np.stack([starts, np.maximum(starts, ends)], 1)


def window_seconds(pool: str | None) -> tuple[Fraction, Fraction] | None:
    """Length and hop of the windows of `window:SECONDS[,HOP]`; None of another pool.

    >>> window_seconds("window:0.5,0.1"), window_seconds("mean")
    ((Fraction(1, 2), Fraction(1, 10)), None)
    """
    if pool is None or not pool.startswith(_WINDOW):
        return None
    seconds = [Fraction(s) for s in pool.removeprefix(_WINDOW).split(",")]
    return seconds[0], seconds[-1]


def is_one_vector(pool: str | None) -> bool:
    """Whether frames are pooled to one vector for each clip.

    >>> is_one_vector("max"), is_one_vector("window:0.5"), is_one_vector(None)
    (True, False, False)
    """
    return pool is not None and window_seconds(pool) is None


def timing_of(description: Mapping[str, Any], folder: Path | str) -> Timing:
    """Where rows lie, as hlfeat.yaml says it; of an earlier version, as far as its configuration tells it.

    Args:
        description: hlfeat.yaml as plain data.
        folder: for messages.

    Raises OutputError where it cannot be known.
    """
    features, config = (description.get(key) or {} for key in ("features", "config"))
    try:
        hop, pool = int(features["hop_samples"]), features.get("pool")
        rate = int(features["sample_rate"] if "sample_rate" in features else config["audio"]["sample_rate"])
        first = features.get("first_centre_samples")
        if first is None:
            first = _first_centre(config["stack"], hop)
        window_seconds(pool)
        if not (hop > 0 and rate > 0 and math.isfinite(first)):
            raise ValueError(hop, rate, first)
        return Timing(rate, hop, float(first), pool)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as e:
        raise OutputError(f"{folder}: the times of frames are not known: hlfeat.yaml does not say enough") from e


def _first_centre(stack: Iterable[Mapping[str, Any]], hop: int) -> float:
    """Samples to the centre of the first frame behind a stack, as plain data, with so many samples from frame to frame.

    Modules know it; this is for hlfeat.yaml of earlier versions. Raises ValueError for a layer that they do not have.
    """
    stride, shift = _stride_and_shift(stack)
    if hop % stride:
        raise ValueError(f"a hop of {hop} samples behind a stride of {stride}")
    return shift * (hop // stride)


def _stride_and_shift(stack: Iterable[Mapping[str, Any]]) -> tuple[int, float]:
    """Frame n of the output is centred on frame n * stride + shift of the input."""
    stride, shift = 1, 0.0
    for layer in stack:
        kind, own = layer["layer"], (1, 0.0)
        if kind == "pool":
            own = int(layer["frames"]), (int(layer["frames"]) - 1) / 2
        elif kind in ("conv", "harmonic"):
            own = int(layer["stride"][1]), 0.0
        elif kind == "residual":
            own = _stride_and_shift(layer["layers"])
        elif kind not in ("norm", "activation", "projection"):
            raise ValueError(kind)
        shift += stride * own[1]
        stride *= own[0]
    return stride, shift


def _multiples(step: Fraction, offset: Fraction, n: int) -> np.ndarray:
    """offset + i * step for i < n, rounded once. Shape: -> float64 [n]."""
    whole = math.lcm(step.denominator, offset.denominator)
    first, each = int(offset * whole), int(step * whole)
    return (first + each * np.arange(n, dtype=np.int64)) / whole
