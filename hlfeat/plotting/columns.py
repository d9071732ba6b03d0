"""Frames as the columns of a picture, collected while they come: a long clip takes no more memory than its picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hlfeat.plotting.images import Grid

LOWEST, HIGHEST = 1.0, 99.5  # percentiles of the values at which a colour scale ends: a click does not decide it
MOST_COLUMNS = 2000  # of an image: more than a page can show


class Columns:
    """Means of blocks of frames, so that few are kept.

    Args:
        rows, frames: of all.
        most: columns.

    Attributes:
        block: the frames of a column.
    """

    def __init__(self, rows: int, frames: int, most: int = MOST_COLUMNS) -> None:
        self.block = -(-max(1, frames) // most)
        columns = -(-max(1, frames) // self.block)
        self._sums, self._counts = np.zeros((rows, columns)), np.zeros(columns)
        self._seen = 0

    def add(self, values: np.ndarray) -> None:
        """The next frames. Shape: [rows, n]."""
        column = (self._seen + np.arange(values.shape[1])) // self.block
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        self._sums[:, column[starts]] += np.add.reduceat(values, starts, axis=1, dtype=np.float64)
        self._counts[column[starts]] += np.diff(np.append(starts, len(column)))
        self._seen += values.shape[1]

    @property
    def values(self) -> np.ndarray:
        """Shape: float32 [rows, columns]."""
        return (self._sums / np.maximum(self._counts, 1)).astype(np.float32)

    def grid(self, frames: Grid) -> Grid:
        """Where the columns lie, given where the frames do."""
        first = frames.first + (self.block - 1) / 2 * frames.step
        return replace(frames, first=first, step=frames.step * self.block)


class Ranges:
    """The range of each block of samples, for the picture of a waveform.

    Args:
        samples: of all.

    Attributes:
        block: the samples of a range.
        low, high: of each block.
    """

    def __init__(self, samples: int) -> None:
        self.block = -(-max(1, samples) // (2 * MOST_COLUMNS))
        blocks = -(-max(1, samples) // self.block)
        self.low, self.high = np.full(blocks, np.inf, np.float32), np.full(blocks, -np.inf, np.float32)
        self.samples = 0

    def add(self, values: np.ndarray) -> None:
        """The next samples. Shape: [n]."""
        block = (self.samples + np.arange(len(values))) // self.block
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        places = block[starts]
        self.low[places] = np.minimum(self.low[places], np.minimum.reduceat(values, starts))
        self.high[places] = np.maximum(self.high[places], np.maximum.reduceat(values, starts))
        self.samples += len(values)
