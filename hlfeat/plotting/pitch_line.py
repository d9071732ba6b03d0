"""The pitch of a salience as a line over its picture."""

from __future__ import annotations

import numpy as np
import torch

from hlfeat.config.config import Config
from hlfeat.config.layers import HarmonicConfig
from hlfeat.errors import UsageError
from hlfeat.nn.pitch import pitch
from hlfeat.plotting.images import Grid, PitchLine

CONFIDENT = 0.5  # from which the line is drawn; white noise has about 0.1
_LEAP = 0.25  # octaves from a frame to the next, at which the line is broken


def confident_hertz(salience: np.ndarray, freqs: np.ndarray) -> np.ndarray:
    """The pitch of each frame, NaN where it is not confident. Shape: [F, n], [F] -> float64 [n]."""
    track = pitch(torch.from_numpy(salience), freqs)
    hertz = track.frequency.double().numpy()
    hertz[(track.confidence.numpy() < CONFIDENT) | (hertz == 0)] = np.nan
    return hertz


def line_of(hertz: np.ndarray, grid: Grid, block: int = 1) -> PitchLine:
    """Points of a line, broken where the pitch leaps. Shape: hertz [N], NaN where there is none.

    Args:
        grid: where the frames lie.
        block: frames that become one point, their median.
    """
    if block > 1:
        padded = np.pad(hertz, (0, -len(hertz) % block), constant_values=np.nan).reshape(-1, block)
        seen = ~np.isnan(padded).all(1)
        hertz = np.full(len(padded), np.nan)
        hertz[seen] = np.nanmedian(padded[seen], 1)
    seconds = grid.first + grid.step * (block * np.arange(len(hertz)) + (block - 1) / 2)
    leaps = 1 + np.flatnonzero(np.abs(np.diff(np.log2(hertz))) > _LEAP)  # NaN is none
    return PitchLine(np.insert(seconds, leaps, np.nan), np.insert(hertz, leaps, np.nan))


def is_salience(config: Config) -> bool:
    """Whether a configuration's output is a salience: its last layer has one channel and is initialised as one."""
    last = config.stack[-1] if config.stack else None
    return isinstance(last, HarmonicConfig) and last.init == "salience" and last.out_channels == 1


def wants_pitch(config: Config, wanted: bool | None, channels: int, freqs: np.ndarray | None) -> bool:
    """Whether the pitch is drawn into an output of so many channels, whose rows have these frequencies.

    Args:
        wanted: None: if the configuration's output is a salience.

    Raises UsageError where pitch is wanted of an output that has several channels, or rows without frequencies.
    """
    if wanted is None:
        wanted = is_salience(config) and freqs is not None
    if wanted and (channels != 1 or freqs is None):
        got = f"{channels} channels" if channels != 1 else "rows without frequencies"
        raise UsageError(f"pitch: expected features of one channel whose rows have frequencies, got {got}")
    return wanted
