"""What is done to features before they are written: normalised by a set's statistics, then pooled over time.

Both take a clip's features piece by piece, in time order, so that a long clip is finished in the memory of its pieces.
All of it is done in float64 on the host: the result does not depend on the device's arithmetic, on the number of
threads, or, but for float64's rounding, on where the pieces were cut.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hlfeat.config import Config
from hlfeat.errors import ClipError, ConfigError, LayerError
from hlfeat.extractor import Extractor
from hlfeat.statistics_file import Statistics, read_statistics

Pieces = Iterable[np.ndarray]


class Finish:
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
        self._normalise = None if statistics is None else Normalisation(statistics)
        self._windows: Windows | None = None
        self._pool: Callable[[Pieces], Iterator[np.ndarray]] | None = None
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


class Normalisation:
    """(y - mean) / standard deviation of every channel and band; what did not vary is divided by 1."""

    def __init__(self, statistics: Statistics) -> None:
        self.mean = statistics.mean
        self.deviation = np.sqrt(np.where(statistics.variance > 0, statistics.variance, 1.0))

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Shape: [n, C, F] -> the same, float64."""
        return (y - self.mean) / self.deviation  # type: ignore[no-any-return]


def mean(pieces: Pieces) -> Iterator[np.ndarray]:
    """Shape: [n, D] each -> one [1, D]."""
    total: np.ndarray = np.zeros(1)
    frames = 0
    for y in pieces:
        total = total + y.sum(0, dtype=np.float64)
        frames += len(y)
    yield (total / frames)[None]


def mean_and_deviation(pieces: Pieces) -> Iterator[np.ndarray]:
    """Means, then standard deviations (of the population: those of a single frame are 0).

    Squares are summed about each piece's own mean, and pieces joined as by Chan, Golub and LeVeque (1979): nothing
    cancels, however far a mean is from zero.

    Shape: [n, D] each -> one [1, 2 D].
    """
    centre: np.ndarray = np.zeros(1)
    squares: np.ndarray = np.zeros(1)
    frames = 0
    for y in pieces:
        own = y.mean(0, dtype=np.float64)
        share, offset = len(y) / (frames + len(y)), own - centre
        squares = squares + ((y - own) ** 2).sum(0) + offset**2 * (frames * share)
        centre = centre + offset * share
        frames += len(y)
    yield np.concatenate([centre, np.sqrt(squares / frames)])[None]


def greatest(pieces: Pieces) -> Iterator[np.ndarray]:
    """Shape: [n, D] each -> one [1, D]."""
    yield np.max([y.max(0) for y in pieces], axis=0)[None]


POOLS: dict[str, Callable[[Pieces], Iterator[np.ndarray]]] = {
    "mean": mean,
    "mean+std": mean_and_deviation,
    "max": greatest,
}


@dataclass(frozen=True)
class Windows:
    """Means over windows: the w-th has the frames n with w * step <= n < w * step + length, in exact arithmetic.

    There are as many as it takes to have every frame in one. So the last may have fewer frames than others, but has one
    at least that no other has.

    Args:
        length, step: in `unit`ths of a frame, with unit <= step <= length: no window is empty, no frame is left out.
    """

    length: int
    step: int
    unit: int

    @classmethod
    def of(cls, pool: str, rate: Fraction) -> Windows:
        """Of `window:SECONDS` or `window:SECONDS,HOP`, and frames a second.

        Raises ValueError where these are shorter than from frame to frame.
        """
        seconds = [Fraction(s) for s in pool.removeprefix("window:").split(",")]
        length, step = seconds[0] * rate, seconds[-1] * rate
        if step < 1:
            raise ValueError(f"expected windows and hops of at least the {float(1 / rate):g} s from frame to frame")
        unit = math.lcm(length.denominator, step.denominator)
        return cls(int(length * unit), int(step * unit), unit)

    def first(self, w: int) -> int:
        """The first frame of a window."""
        return -(-w * self.step // self.unit)

    def end(self, w: int) -> int:
        """The first frame after a window."""
        return -(-(w * self.step + self.length) // self.unit)

    def count(self, frames: int) -> int:
        """Windows of a clip: up to the first that has the last frame."""
        return max(0, ((frames - 1) * self.unit - self.length) // self.step + 1) + 1

    def __call__(self, pieces: Pieces) -> Iterator[np.ndarray]:
        """Shape: [n, D] each -> [windows, D] each."""
        totals: deque[np.ndarray] = deque()  # of the windows that have begun but not ended
        done = seen = 0  # windows; frames
        for y in pieces:
            means, after = [], seen + len(y)
            for w, total in enumerate(totals, done):
                total += y[: self.end(w) - seen].sum(0, dtype=np.float64)
            while (first := self.first(done + len(totals))) < after:
                totals.append(y[first - seen : self.end(done + len(totals)) - seen].sum(0, dtype=np.float64))
            while self.end(done) <= after:
                means.append(totals.popleft() / (self.end(done) - self.first(done)))
                done += 1
            if means:
                yield np.stack(means)
            seen = after
        if done < self.count(seen):
            yield (totals.popleft() / (seen - self.first(done)))[None]


def make_finish(
    config: Config, extractor: Extractor, weights_sha256: str | None, stats: Path | None
) -> tuple[Finish, str | None]:
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
                f"this configuration and these weights, without --stats ({expected[:12]})"
            )
    shape, rate = (extractor.n_channels, extractor.n_bands), Fraction(extractor.sample_rate, extractor.hop)
    if statistics is not None and statistics.mean.shape != shape:
        raise ConfigError(f"{stats}: expected statistics of channels x bands {shape}, got {statistics.mean.shape}")
    try:
        return Finish(*shape, rate, statistics, config.output.pool), digest
    except ValueError as e:
        raise LayerError(("output", "pool"), f"({config.output.pool}): {e}") from e
