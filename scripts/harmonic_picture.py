"""Draw what a harmonic convolution looks at: scripts/harmonic_picture.py OUT.png (needs matplotlib).

One sung note, seen on a linear and on EfficientLEAF's mel-spaced axis. For the row of the note's fundamental, the cells
that a 3 x 3 kernel of an ordinary convolution reads are drawn beside those that a harmonic kernel of 5 x 3 reads.
"""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import torch

import hlfeat

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

RATE, SECONDS, PITCH = 16000, 0.6, 250.0
FRAME = 25  # where the vibrato passes through the pitch


def note() -> torch.Tensor:
    """A voice-like tone with vibrato: [1, T]."""
    t = np.arange(int(RATE * SECONDS)) / RATE
    phase = 2 * np.pi * PITCH * (t + 0.004 * np.sin(2 * np.pi * 5 * t) / 5)
    x = sum(np.sin(k * phase) / k**0.7 for k in range(1, 12))
    return torch.from_numpy(0.1 * x).float()[None]


def draw(
    axes: Axes,
    features: np.ndarray,
    freqs: np.ndarray,
    axis: hlfeat.LinearAxis | hlfeat.CentreAxis,
    ticks: list[int],
    harmonic: bool,
    title: str,
) -> None:
    """The spectrogram, and a frame around each cell that one output value is computed from."""
    row = int(np.abs(freqs - PITCH).argmin())
    axes.imshow(features, origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
    rows = [row - 1, row, row + 1]
    if harmonic:
        rows = axis.positions(len(freqs), 5, 1)[:, row].tolist()
    for n, p in enumerate(rows):
        for u in (-1, 0, 1):
            axes.add_patch(Rectangle((FRAME + u - 0.5, p - 0.5), 1, 1, fill=False, edgecolor="cyan", linewidth=1.2))
        if harmonic:
            axes.text(FRAME + 2.5, p, f"{n + 1} f" if n else "f", color="cyan", va="center", fontsize=8)
    axes.set_yticks(np.interp(ticks, freqs, np.arange(len(freqs))), map(str, ticks))
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("frame")


def main(path: str) -> None:
    x = note()
    linear = hlfeat.Spectrogram(n_fft=1024, n_bands=100).eval()
    leaf = hlfeat.EfficientLeaf(80, 8, conv_win_factor=6, stride_factor=16).eval()
    with torch.no_grad():
        spectrogram, energies = linear(x)[0].numpy(), leaf(x)[0, 0].numpy()
    f_linear, f_leaf = linear.centre_freqs().numpy(), leaf.centre_freqs().numpy()
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    linear_axis, centres = hlfeat.LinearAxis(), hlfeat.CentreAxis.of(f_leaf.tolist())
    hertz = [0, 500, 1000, 1500]
    draw(panels[0], spectrogram, f_linear, linear_axis, hertz, False, "ordinary convolution: neighbours")
    draw(panels[1], spectrogram, f_linear, linear_axis, hertz, True, "harmonic convolution, linear axis")
    hertz = [100, 500, 1000, 2000, 5000]
    draw(panels[2], energies, f_leaf, centres, hertz, True, "harmonic convolution, EfficientLEAF's bands")
    panels[2].set_ylim(-0.5, 59.5)
    panels[0].set_ylabel("frequency, Hz")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main(sys.argv[1])
