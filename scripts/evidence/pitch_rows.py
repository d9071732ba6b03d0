"""Rows of frequency for the pitch of notes: where they lie, what a label is on them, and pitch from them.

    rows = make_rows("mel")
    rows.freqs                     # [F] hertz
    rows.axis, rows.wrong_axis     # for harmonic convolution
    rows.levels(x)                 # [B, F, N] of waveforms [B, T]

All cover 27.5 to 7040 Hz: a piano's lowest note, and harmonics of its highest.

- log: 193 Gabor filters, 24 an octave. mel: 193, equally spaced in mel: near 100 Hz, a semitone and a half apart.
- linear: 702 rows, 10 Hz apart from 30 Hz up, of a Fourier transform of 100 ms, which tells no closer ones apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hlfeat import CentreAxis, EfficientLeaf, LinearAxis, LogAxis, Spectrogram
from hlfeat.nn.axes import Axis, centre_axis

RATE = 16000
LOWEST, HIGHEST = 27.5, 7040.0  # hertz
FILTERS, PER_OCTAVE = 193, 24
WINDOW = 100.0  # milliseconds
HOP = 640  # samples, 40 ms
DYNAMICS = 80.0  # dB below a frame's strongest row at which values are 0

KINDS = ("log", "mel", "linear")


@dataclass
class Rows:
    """A frontend's rows.

    Attributes:
        kind: of `KINDS`.
        frontend: waveforms [B, T] -> energies [B, F, N], of linear rows their logarithms.
        freqs: centre frequencies, float64 [F], hertz, rising.
        axis: where harmonics are.
        wrong_axis: where they would be if log or mel rows were equally spaced in hertz over the same range, and linear
            rows in octaves.
    """

    kind: str
    frontend: nn.Module
    freqs: Tensor
    axis: Axis
    wrong_axis: Axis

    def levels(self, x: Tensor) -> Tensor:
        """Levels of every HOP samples, differentiable. Shape: [B, T] -> [B, F, N]."""
        energies = self.frontend(x)
        return levels(energies.exp() if self.kind == "linear" else energies)

    def follow(self) -> None:
        """Take frequencies and axis from where the filters are now."""
        self.freqs = self.frontend.centre_freqs().double()  # type: ignore[operator]
        self.axis = centre_axis(self.freqs.float())


def make_rows(kind: str) -> Rows:
    """The rows of a kind, as training finds them. Raises ValueError for another word."""
    step = (HIGHEST - LOWEST) / (FILTERS - 1)
    if kind == "linear":
        frontend = Spectrogram(RATE, WINDOW, 1000 * HOP / RATE, n_fft=RATE // 10, n_bands=round(HIGHEST / 10) + 1)
        first = 3  # 30 Hz
        freqs = frontend.centre_freqs()[first:]
        octaves = math.log2(HIGHEST / (10 * first))
        return Rows(kind, _From(frontend, first), freqs, LinearAxis(first), LogAxis((len(freqs) - 1) / octaves, 2.0))
    spacing: dict[str, object]
    if kind == "log":
        spacing = {
            "scale": "log",
            "min_freq": LOWEST * 2 ** (-1 / PER_OCTAVE),
            "max_freq": HIGHEST * 2 ** (1 / PER_OCTAVE),
        }
    elif kind == "mel":
        low, high = (1127 * math.log1p(f / 700) for f in (LOWEST, HIGHEST))
        apart = (high - low) / (FILTERS - 1)
        outer = [700 * math.expm1(m / 1127) for m in (low - apart, high + apart)]
        spacing = {"scale": "mel", "min_freq": outer[0], "max_freq": outer[1]}
    else:
        raise ValueError(f"expected rows of {', '.join(KINDS)}, got {kind!r}")
    frontend = EfficientLeaf(
        FILTERS, 8, sample_rate=RATE, window_len=WINDOW, window_stride=1000 * HOP / RATE, conv_win_factor=6,
        stride_factor=16, compression=nn.Identity(), **spacing,
    )  # fmt: skip
    freqs = frontend.centre_freqs().double()
    axis = LogAxis(PER_OCTAVE, 2.0) if kind == "log" else CentreAxis.of(freqs.tolist(), torch.finfo(torch.float32).eps)
    return Rows(kind, frontend, freqs, axis, LinearAxis(LOWEST / step))


class _From(nn.Module):
    """A frontend without its lowest rows, whose distance in octaves has no end."""

    def __init__(self, frontend: nn.Module, first: int) -> None:
        super().__init__()
        self.whole, self.first = frontend, first

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(x)[..., self.first :, :]  # type: ignore[no-any-return]


def levels(energies: Tensor) -> Tensor:
    """Levels without loudness: 1 in a frame's strongest row, 0 at `DYNAMICS` dB below. Shape: [B, F, N] both."""
    strongest = energies.amax(dim=1, keepdim=True).clamp(min=1e-20)
    floor = 10 ** (-DYNAMICS / 10)
    return 1 + 10 / DYNAMICS * torch.log10(energies / strongest + floor)


def soft_labels(freqs: Tensor, hertz: Tensor) -> Tensor:
    """Two neighbouring rows, weighted by how near they are to the label in octaves; of labels beyond, the last row.

    Shape: freqs [F] in any order, hertz [N] -> float32 [F, N]; columns add up to 1.
    """
    octaves, order = freqs.double().clamp(min=1e-3).log2().sort()
    wanted = hertz.double().log2()
    above = torch.searchsorted(octaves, wanted).clamp(1, len(octaves) - 1)
    gap = (octaves[above] - octaves[above - 1]).clamp(min=1e-12)
    share = ((wanted - octaves[above - 1]) / gap).clamp(0, 1).float()
    labels = torch.zeros(len(octaves), len(hertz))
    columns = torch.arange(len(hertz))
    labels[order[above - 1], columns] = 1 - share
    labels[order[above], columns] += share
    return labels


def pitch(salience: Tensor, freqs: Tensor) -> Tensor:
    """The strongest row's frequency, with a parabola through it and its neighbours over octaves.

    Shape: salience [F, N], freqs [F] in any order -> float64 [N], hertz.
    """
    octaves, order = freqs.double().clamp(min=1e-3).log2().sort()
    y = salience.double()[order]
    best = y.argmax(dim=0)
    inside = best.clamp(1, len(octaves) - 2)
    (x0, x1, x2), columns = (octaves[inside + i] for i in (-1, 0, 1)), torch.arange(y.shape[1])
    y0, y1, y2 = (y[inside + i, columns] for i in (-1, 0, 1))
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    bend = left - right
    move = -0.5 * ((x1 - x0) * left - (x1 - x2) * right) / torch.where(bend == 0, 1.0, bend)
    fine = (best == inside) & (bend != 0)  # at the ends there is no neighbour, and on a plateau no top
    return torch.exp2(torch.where(fine, (x1 + move).clamp(x0, x2), octaves[best]))


def cents(hertz: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> np.ndarray:
    """Distance from the truth in cents, signed."""
    return np.asarray(1200 * np.log2(np.asarray(hertz) / np.asarray(truth)))
