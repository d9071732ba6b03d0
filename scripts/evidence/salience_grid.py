"""Raw pitch accuracy of `pitch-salience` with other constants: a window's energies serve all others.

    frames = clip_frames(clips, noise=10.0, rows=12, window=64.0)
    accuracies(frames, rows=12, compression="relative-log", a=1.5)[0.6, 1.0]    # decay, valley

Filterbank, compression, convolution and pitch are the library's own. The weights of all decays and valleys are output
channels of one convolution, which reads between rows once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import hlfeat
from hlfeat.config.frontends import EleafConfig, RelativeLogConfig
from hlfeat.config.layers import SALIENCE_DECAY, SALIENCE_VALLEY, HarmonicConfig
from hlfeat.nn.harmonic.salience import salience_weights
from scripts.evidence.clips import PitchClip, noisy
from scripts.evidence.trackers import TOLERANCE

CONFIGURATIONS = {12: "pitch-salience", 24: "pitch-salience-fine"}  # by rows an octave
WINDOWS = {12: (50.0, 64.0, 80.0), 24: (80.0, 100.0, 125.0)}  # milliseconds
EXPONENTS = {"relative-log": (1.0, 1.5, 2.0), "logtbn": (4.0, 5.0)}  # a; clips are as loud as in the file
DECAYS = (0.35, 0.5, 0.6, 0.75, 1.0)
VALLEYS = (0.8, 1.0, 1.2)
PAIRS = tuple(product(DECAYS, VALLEYS))
BLOCK = 4096  # frames: the salience of all pairs takes 47 MB


class Setting(NamedTuple):
    """Constants of a salience with `rows` an octave."""

    rows: int
    window: float
    compression: str
    a: float
    decay: float
    valley: float


@dataclass(frozen=True)
class Frames:
    """The scored frames of all notes, one behind the other.

    Attributes:
        energies: [F, N].
        note: of each frame, the number of its note: int64 [N].
        hertz: labels, float64 [N].
    """

    energies: Tensor
    note: np.ndarray
    hertz: np.ndarray


def shipped(rows: int) -> Setting:
    """The constants of the configuration with so many rows an octave."""
    config = hlfeat.load_config(CONFIGURATIONS[rows])
    frontend, layer = config.frontend, config.stack[0]
    assert isinstance(frontend, EleafConfig)
    assert isinstance(layer, HarmonicConfig)
    assert isinstance(frontend.compression, RelativeLogConfig)
    decay = SALIENCE_DECAY if layer.decay is None else layer.decay
    valley = SALIENCE_VALLEY if layer.valley is None else layer.valley
    return Setting(rows, frontend.window_len, "relative-log", frontend.compression.a, decay, valley)


@cache
def extractor(rows: int, window: float) -> hlfeat.Extractor:
    """The shipped configuration with another window."""
    config = hlfeat.load_config(CONFIGURATIONS[rows], [f"frontend.window_len={window:g}"])
    return hlfeat.build(config).eval()


@torch.inference_mode()
def clip_frames(clips: Iterable[PitchClip], noise: float | None, rows: int, window: float) -> Frames:
    """Energies of the frames that are scored."""
    filterbank = extractor(rows, window).frontend.filterbank
    energies, counts, labels = [], [], []
    for clip in clips:
        scored = torch.from_numpy(clip.scored)
        energies.append(filterbank(torch.from_numpy(noisy(clip, noise))[None])[0][:, scored])  # type: ignore[operator]
        counts.append(int(clip.scored.sum()))
        labels.append(clip.frequency)
    return Frames(torch.cat(energies, 1), np.repeat(np.arange(len(counts)), counts), np.repeat(labels, counts))


@torch.inference_mode()
def accuracies(frames: Frames, rows: int, compression: str, a: float) -> dict[tuple[float, float], float]:
    """Share of a note's frames within 50 cents of its label, averaged over notes: of each pair of decay and valley."""
    freqs = extractor(rows, WINDOWS[rows][0]).frontend.centre_freqs()
    compress = compression_of(compression, len(freqs), a)
    convolve = convolution(rows)
    found: list[list[Tensor]] = [[] for _ in PAIRS]
    for block in frames.energies.split(BLOCK, 1):
        for pitches, salience in zip(found, convolve(compress(block[None])[None])[0], strict=True):
            pitches.append(hlfeat.pitch(salience, freqs).frequency)
    return {pair: score(torch.cat(pitches), frames) for pair, pitches in zip(PAIRS, found, strict=True)}


def compression_of(name: str, bands: int, a: float) -> nn.Module:
    """Relative to the frame's mean, or log(1 + 10^a x), whose batch norm is as new and changes nothing."""
    if name == "relative-log":
        return hlfeat.RelativeLog(bands, a)
    return hlfeat.LogTBN(bands, affine=False, a=a).eval()


@cache
def convolution(rows: int) -> hlfeat.LogHarmonicConv2d:
    """The configuration's convolution, with an output channel for each pair of decay and valley."""
    layer = hlfeat.load_config(CONFIGURATIONS[rows]).stack[0]
    assert isinstance(layer, HarmonicConfig)
    assert layer.anchor is not None  # the files give it
    kernel = layer.kernel[0]
    conv = hlfeat.LogHarmonicConv2d(1, len(PAIRS), (kernel, 1), anchor=layer.anchor, bins_per_octave=rows, bias=False)
    weights = [salience_weights(kernel, layer.anchor, decay=decay, valley=valley) for decay, valley in PAIRS]
    with torch.no_grad():
        conv.weight.copy_(torch.stack(weights)[:, None, :, None])
    return conv


def score(pitches: Tensor, frames: Frames) -> float:
    """As `trackers.right_frames`, averaged over notes. Shape: hertz [N]."""
    found = pitches.double().numpy()
    off = np.abs(1200 * np.log2(np.where(found > 0, found, 1.0) / frames.hertz))
    right = (found > 0) & (off <= TOLERANCE)
    return float(np.mean(np.bincount(frames.note, right) / np.bincount(frames.note)))
