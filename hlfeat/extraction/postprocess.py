"""Normalises features by the statistics of a data set and pools them over time, before they are written.

Both take a clip's features chunk by chunk, in time order, so that a long clip needs no more memory than its chunks.
Everything is computed in float64 on the host: the result does not depend on the device's arithmetic, on the number of
threads or, up to float64's rounding, on where the chunks were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hlfeat.config.config import Config
from hlfeat.errors import ClipError, ConfigError, LayerError
from hlfeat.extraction.pooling import POOLS, Chunks, Windows
from hlfeat.files import hash_file
from hlfeat.nn.extractor import Extractor
from hlfeat.statistics.dataset_statistics import Statistics


class PostProcessor:
    """From features to the rows that are written.

    Args:
        channels, bands: of the features.
        rate: frames per second.
        statistics: of the data set; None: do not normalise.
        pool: as `output.pool` of the configuration; None: do not pool.

    Raises ValueError for windows that are too short to hold a frame.

    Attributes:
        changes: whether features are normalised or pooled at all.
        shape: of a row that is written: (channels, bands), or (dims,) of pooled features.
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
        """The number of rows that are written of a clip of so many frames."""
        if self._windows is not None:
            return self._windows.count(frames)
        return frames if self._pool is None else 1

    def __call__(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The rows of a clip; its features as they are if there is nothing to change.

        Raises ClipError where features are not finite, as pooling may hide it (a maximum of -inf does not show).

        Shape: [..., n, C, F] each, in time order -> [..., rows, *shape] each.
        """
        if not self.changes:
            return iter(chunks)
        frames = self._frames(chunks)
        return map(torch.from_numpy, frames if self._pool is None else self._pool(frames))

    def whole(self, y: Tensor) -> Tensor:
        """All rows of a clip at once, or of several clips of as many frames.

        Shape: [..., N, C, F] -> [..., rows, *shape].
        """
        rows = list(self([y]))
        return rows[0] if len(rows) == 1 else torch.cat(rows, y.dim() - 3)

    def _frames(self, chunks: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """Normalised frames [..., n, C, F], or [..., n, C * F] where they are pooled next; no chunk is empty."""
        for chunk in chunks:
            y = chunk.cpu().numpy()
            check_finite(y, "they are normalised or pooled")
            if y.shape[-3]:
                y = y if self._normalise is None else self._normalise(y)
                yield y if self._pool is None else y.reshape(*y.shape[:-2], -1)


def check_finite(y: np.ndarray, before: str) -> None:
    """Raises ClipError for features that are not finite, before something hides it."""
    if not np.isfinite(y).all():
        raise ClipError("non-finite", f"features that are not finite, before {before}")


class MeanVarianceNorm:
    """(y - mean) / standard deviation, for every channel and band; a band that does not vary is divided by 1."""

    def __init__(self, statistics: Statistics) -> None:
        self.mean = statistics.mean
        self.deviation = np.sqrt(np.where(statistics.variance > 0, statistics.variance, 1.0))

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Shape: [..., C, F] -> the same, float64."""
        return (y - self.mean) / self.deviation  # type: ignore[no-any-return]


def make_postprocessor(
    config: Config, extractor: Extractor, weights_sha256: str | None, stats: Path | None
) -> tuple[PostProcessor, str | None]:
    """The post-processor that a configuration and a file of statistics describe, and the SHA-256 of the file.

    Raises ConfigError for statistics of other features, and for windows that are too short.
    """
    statistics = digest = None
    if stats is not None:
        statistics = Statistics.read(stats)
        digest = hash_file(stats)
        if statistics.pool is not None:
            raise ConfigError(
                f"{stats}: expected statistics of frames, got those of pooled vectors ({statistics.pool})"
            )
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
