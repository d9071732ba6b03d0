"""Decoder: the interface of what turns a file's bytes into samples, whatever library does it.

For each format it is known what its length is: a promise that the header makes and that must be kept, a guess that
means nothing, or unknown until the stream ends. A decoder reads to the last sample that there is, and says at the end
whether that is all.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hlfeat.errors import ClipError


class TruncatedError(ClipError):
    """A recording that was cut short, or never finished: what is there can be used, if the user says so.

    Attributes:
        promised: seconds that the file should have; None where it does not say.
    """

    def __init__(self, message: str, promised: float | None = None) -> None:
        super().__init__("truncated", message)
        self.promised = promised


class Decoder(Protocol):
    """An open file.

    Attributes:
        name: the library and its version, for formats that libsndfile does not read; None for libsndfile.
        sample_rate: hertz; channels: of the file.
        length: samples of each channel that the header promises; None where it makes no promise.
        exact_seek: whether `seek` gets to the exact sample.
        shortfall: what is known from the start to be missing at the end; None for nothing.
    """

    name: str | None
    sample_rate: int
    channels: int
    length: int | None
    exact_seek: bool
    shortfall: TruncatedError | None

    def read(self, samples: int) -> np.ndarray:
        """The next samples, fewer only at the end, or where an error ends the reading.

        Shape: -> float32 [samples, channels]

        Raises ClipError where none before the error can be given; else `check_end` raises it.
        """

    def seek(self, sample: int) -> None:
        """Go on from this sample, where `exact_seek`."""

    def check_end(self, samples: int) -> None:
        """Raises ClipError where so many samples are not all that the file has: it has been read as far as it goes."""

    def close(self) -> None:
        """Close the file."""
