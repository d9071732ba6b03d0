"""The pitch of a salience as a line over its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from hlfeat.config.config import Config
from hlfeat.config.layers import HarmonicConfig
from hlfeat.errors import UsageError
from hlfeat.nn.pitch import pitch
from hlfeat.plotting.images import Image, PitchLine

CONFIDENT = 0.5  # from which the line is drawn; white noise has about 0.1
_LEAP = 0.25  # octaves from a frame to the next, at which the line is broken


def pitch_line(image: Image) -> PitchLine:
    """The pitch of a salience, where it is confident. The image's rows must have frequencies."""
    grid = image.grid
    assert grid.freqs is not None, "rows without frequencies have no pitch"
    track = pitch(torch.from_numpy(image.values), grid.freqs)
    hertz = track.frequency.double().numpy()
    hertz[(track.confidence.numpy() < CONFIDENT) | (hertz == 0)] = np.nan
    seconds = grid.first + grid.step * np.arange(len(hertz))
    leaps = 1 + np.flatnonzero(np.abs(np.diff(np.log2(hertz))) > _LEAP)  # NaN is none
    return PitchLine(np.insert(seconds, leaps, np.nan), np.insert(hertz, leaps, np.nan))


def is_salience(config: Config) -> bool:
    """Whether a configuration's output is a salience: its last layer has one channel and is initialised as one."""
    last = config.stack[-1] if config.stack else None
    return isinstance(last, HarmonicConfig) and last.init == "salience" and last.out_channels == 1


def with_pitch(images: Sequence[Image], config: Config, wanted: bool | None, channels: int) -> list[Image]:
    """The images of an output, with the pitch in them.

    Args:
        images: of one of the output's `channels`.
        wanted: None: if the configuration's output is a salience.

    Raises UsageError where pitch is wanted of an output that has several channels, or rows without frequencies.
    """
    freqs = images[0].grid.freqs
    if wanted is None:
        wanted = is_salience(config) and freqs is not None
    if not wanted:
        return list(images)
    if channels != 1 or freqs is None:
        got = f"{channels} channels" if channels != 1 else "rows without frequencies"
        raise UsageError(f"pitch: expected features of one channel whose rows have frequencies, got {got}")
    return [replace(image, pitch=pitch_line(image)) for image in images]
