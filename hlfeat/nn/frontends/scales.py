"""Where a filterbank's filters start: centre frequencies and widths on a frequency scale.

Sources: mel as in HTK (Young et al., The HTK Book); Bark after Traunmüller, "Analytical expressions for the tonotopic
sensory scale", JASA 1990; ERB rate after Glasberg & Moore, "Derivation of auditory filter shapes from notched-noise
data", Hearing Research 1990; Gabor widths from a mel matrix after Zeghidour et al., "LEAF", ICLR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torchaudio.functional as AF

from hlfeat.config.filters import BINS_RANGE, LEAST_FIRST_FREQ, check_highest, check_octaves, outer_neighbours

Scale = Literal["mel", "linear", "log", "bark", "erb", "mel-matrix"]
SCALES: tuple[str, ...] = get_args(Scale)
MATRIX_FFT = 512  # LEAF reads its filters off a mel matrix of this FFT size


def spaced_frequencies(n: int, low: float, high: float, scale: str = "mel") -> np.ndarray:
    """`n` frequencies from `low` to `high`, both included, equally spaced on a scale.

    "mel" is 1127 ln(1 + f / 700), "log" octaves (`low` must be above 0), "bark" 26.81 f / (1960 + f) - 0.53, "erb" the
    ERB rate 21.4 lg(1 + 0.00437 f), "linear" hertz.

    Shape: -> float64 [n], hertz.
    """
    if scale == "linear":
        return np.linspace(low, high, n)
    if scale == "log":
        if low <= 0:
            raise ValueError(f"a log scale needs a lowest frequency above 0 Hz, got {low}")
        return np.geomspace(low, high, n)
    if scale == "mel":
        return 700 * np.expm1(np.linspace(1127 * math.log1p(low / 700), 1127 * math.log1p(high / 700), n) / 1127)
    if scale == "erb":  # the factors 21.4 and ln 10 cancel
        return np.expm1(np.linspace(math.log1p(0.00437 * low), math.log1p(0.00437 * high), n)) / 0.00437
    if scale == "bark":  # equally spaced in f / (1960 + f)
        part = np.linspace(low / (1960 + low), high / (1960 + high), n)
        return 1960 * part / (1 - part)
    raise ValueError(f"expected a scale of {', '.join(SCALES)}, got {scale!r}")


def filter_edges(n: int, low: float, high: float, scale: Scale | Sequence[float]) -> np.ndarray:
    """Centre frequencies of `n` filters with a neighbour on either side: [n + 2], hertz, rising.

    `scale` may be the centre frequencies themselves; `low` and `high` are then the outer filters' neighbours.

    Raises:
        ValueError: frequencies that do not rise strictly from `low` to `high`, or not `n` of them.
    """
    if isinstance(scale, str):
        return spaced_frequencies(n + 2, low, high, scale)
    edges = np.array([low, *scale, high], dtype=np.float64)
    if len(edges) != n + 2:
        raise ValueError(f"expected {n} centre frequencies, one a filter, got {len(edges) - 2}")
    if not (np.diff(edges) > 0).all():
        raise ValueError(f"expected centre frequencies that rise from min_freq = {low:g} to max_freq = {high:g} Hz")
    return edges


def outer_frequencies(
    n: int,
    min_freq: float,
    max_freq: float,
    scale: Scale | Sequence[float],
    sample_rate: int,
    first_freq: float | None,
    bins_per_octave: float | None,
) -> tuple[float, float]:
    """Lower neighbour of the lowest of `n` filters and upper neighbour of the highest, hertz.

    Filter i is at first_freq * 2^(i / bins_per_octave), or one step further where min_freq is given instead.

    Raises:
        ValueError: frequencies that contradict each other; with first_freq, a filter at half the sample rate or above.
    """
    if first_freq is not None and not LEAST_FIRST_FREQ <= first_freq < math.inf:
        raise ValueError(f"first_freq: expected a frequency of at least {LEAST_FIRST_FREQ:g} Hz, got {first_freq}")
    if bins_per_octave is not None and not BINS_RANGE[0] <= bins_per_octave <= BINS_RANGE[1]:
        raise ValueError("bins_per_octave: expected {:g} to {:g}, got {}".format(*BINS_RANGE, bins_per_octave))
    check_octaves(scale, min_freq, max_freq, first_freq, bins_per_octave)
    if first_freq is not None and bins_per_octave is not None:
        check_highest(n, first_freq, bins_per_octave, sample_rate)
    return outer_neighbours(n, min_freq, max_freq, first_freq, bins_per_octave)


def initial_filters(
    n: int, low: float, high: float, scale: Scale | Sequence[float], sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centre frequencies and bandwidths of Gabor filters: 2 x [n], radians a sample and samples.

    Filter i gets sigma_i = (sample_rate / 2) / (f_{i+1} - f_{i-1}). With "mel-matrix" they are read off a matrix of mel
    filters over FFT bins, as in the original LEAF: the centre is the bin of the maximum, the full width at half maximum
    w of the filter's square root gives sigma = sqrt(2 ln 2) 512 / (pi w). Low filters are then coarsely placed.
    """
    if isinstance(scale, str) and scale == "mel-matrix":
        bank = AF.melscale_fbanks(MATRIX_FFT // 2 + 1, low, high, n, sample_rate).sqrt().numpy()  # [bins, n]
        width = (bank >= bank.max(0) / 2).sum(0)
        if not bank.max(0).all():
            raise ValueError(
                f"mel-matrix: filter {int(bank.max(0).argmin())} of {n} has no bin of an FFT of {MATRIX_FFT}; "
                "expected fewer filters, or scale mel"
            )
        sigma = math.sqrt(2 * math.log(2)) * MATRIX_FFT / (math.pi * width)
        return 2 * math.pi / MATRIX_FFT * bank.argmax(0).astype(np.float64), sigma
    edges = filter_edges(n, low, high, scale)
    return 2 * math.pi / sample_rate * edges[1:-1], (sample_rate / 2) / (edges[2:] - edges[:-2])
