"""Features as images: their values, where these lie in hertz and seconds, and what they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Where the rows and frames of an image lie.

    Attributes:
        freqs: of the rows in hertz [F]; None if rows have no frequency.
        first, step: frame n lies at first + n * step seconds in the file.
        span: beginning and end of the clip in the file, in seconds.
    """

    freqs: np.ndarray | None
    first: float
    step: float
    span: tuple[float, float]


@dataclass(frozen=True)
class PitchLine:
    """Points of a line: seconds in the file and hertz, NaN where it is broken. Shape: [P] each."""

    seconds: np.ndarray
    hertz: np.ndarray


@dataclass(frozen=True)
class Profile:
    """One channel of a vector that stands for a whole clip.

    Attributes:
        values: [F]; deviation: standard deviations over time, where the vector has them.
        freqs: of the rows in hertz [F]; None if rows have no frequency.
    """

    values: np.ndarray
    deviation: np.ndarray | None
    freqs: np.ndarray | None
    title: str
    unit: str


@dataclass(frozen=True)
class Image:
    """One channel of features.

    Attributes:
        values: [F, N]; of a long clip, columns (hlfeat/plotting/columns.py).
        scale: the quantity; images with the same one share a colour scale.
        pitch: a line that is drawn into it.
    """

    values: np.ndarray
    grid: Grid
    title: str
    unit: str
    scale: str
    pitch: PitchLine | None = None
