"""What is done to features before they are written: normalised by a set's statistics, then pooled over time.

Both take a clip's features piece by piece, in time order, so that a long clip is finished in the memory of its pieces.
All of it is done in float64 on the host: the result does not depend on the device's arithmetic, on the number of
threads, or, but for float64's rounding, on where the pieces were cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hlfeat.config.config import Config
from hlfeat.errors import ClipError, ConfigError, LayerError
from hlfeat.extraction.pooling import POOLS, Chunks, Windows
from hlfeat.nn.extractor import Extractor
from hlfeat.statistics.dataset_statistics import Statistics, read_statistics


class PostProcessor:
    """Features to what is written.

    Args:
        channels, bands: of the features.
        rate: frames a second.
        statistics: what to normalise by; None: not at all.
        pool: as `output.pool` of the configuration; None: not at all.

    Raises ValueError for windows that would hold no frame.

    Attributes:
        changes: whether it does anything.
        shape: of a row of what is written: (channels, bands), pooled (dims,).
    """

    def __init__(
        self, channels: int, bands: int, rate: Fraction, statistics: Statistics | None = None, pool: str | None = None
    ) -> None:
        self.changes = statistics is not None or pool is not None
        self.shape: tuple[int, ...] = (channels, bands)
        self._normalise = None if statistics is None else MeanVarianceNorm(statistics)
        self._windows: Windows | None = None
        self._pool: Callable[[Chunks], Iterator[np.ndarray]] | None = None
        if pool is not None:
            self.shape = (channels * bands * (2 if pool == "mean+std" else 1),)
            if pool in POOLS:
                self._pool = POOLS[pool]
            else:
                self._pool = self._windows = Windows.of(pool, rate)

    def rows(self, frames: int) -> int:
        """How many rows are written of a clip of so many frames."""
        if self._windows is not None:
            return self._windows.count(frames)
        return frames if self._pool is None else 1

    def __call__(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """A clip's features to its rows; what there is nothing to do about stays as it is.

        Raises ClipError where features are not finite: pooled, they might not show.

        Shape: [n, C, F] each, in time order -> [rows, *shape] each.
        """
        if not self.changes:
            return iter(pieces)
        frames = self._frames(pieces)
        return map(torch.from_numpy, frames if self._pool is None else self._pool(frames))

    def whole(self, y: Tensor) -> Tensor:
        """All rows of a clip at once. Shape: [N, C, F] -> [rows, *shape]."""
        rows = list(self([y]))
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _frames(self, pieces: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """Normalised and, where they are to be pooled, [n, C * F]; no piece is empty."""
        for piece in pieces:
            y = piece.cpu().numpy()
            if not np.isfinite(y).all():
                raise ClipError("non-finite", "features that are not finite, before they are normalised or pooled")
            if len(y):
                y = y if self._normalise is None else self._normalise(y)
                yield y if self._pool is None else y.reshape(len(y), -1)


class MeanVarianceNorm:
    """(y - mean) / standard deviation of every channel and band; what did not vary is divided by 1."""

    def __init__(self, statistics: Statistics) -> None:
        self.mean = statistics.mean
        self.deviation = np.sqrt(np.where(statistics.variance > 0, statistics.variance, 1.0))

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Shape: [n, C, F] -> the same, float64."""
        return (y - self.mean) / self.deviation  # type: ignore[no-any-return]


def make_postprocessor(
    config: Config, extractor: Extractor, weights_sha256: str | None, stats: Path | None
) -> tuple[PostProcessor, str | None]:
    """What a configuration and a file of statistics say is to be done, and the file's SHA-256.

    Raises ConfigError where the statistics are not of these features, and for windows that are too short.
    """
    statistics = digest = None
    if stats is not None:
        statistics = read_statistics(stats)
        digest = hashlib.sha256(stats.read_bytes()).hexdigest()
        expected = config.frames_fingerprint(weights_sha256)
        if statistics.fingerprint != expected:
            raise ConfigError(
                f"{stats}: statistics of other features (fingerprint {statistics.fingerprint[:12]}): expected those of "
                f"this configuration and these weights, not normalised ({expected[:12]})"
            )
    shape, rate = (extractor.n_channels, extractor.n_bands), Fraction(extractor.sample_rate, extractor.hop)
    if statistics is not None and statistics.mean.shape != shape:
        raise ConfigError(f"{stats}: expected statistics of channels x bands {shape}, got {statistics.mean.shape}")
    try:
        return PostProcessor(*shape, rate, statistics, config.output.pool), digest
    except ValueError as e:
        raise LayerError(("output", "pool"), f"({config.output.pool}): {e}") from e
