"""hlfeat.pitch in its simplest form, until the library has it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

import hlfeat


class PitchTrack(NamedTuple):
    """Hertz and confidence; both [..., N]."""

    frequency: Tensor
    confidence: Tensor


def pitch(salience: Tensor, freqs: Tensor) -> PitchTrack:
    """The highest row, moved by the vertex of the parabola through it and its neighbours, in log frequency.

    Shape: salience [..., F, N], freqs [F] -> both [..., N].
    """
    octaves = freqs.log2()
    row = salience[..., 1:-1, :].argmax(-2) + 1
    below, at, above = (salience.double().gather(-2, (row + d)[..., None, :])[..., 0, :] for d in (-1, 0, 1))
    shift = (0.5 * (below - above) / (below - 2 * at + above)).nan_to_num(0).clamp(-1, 1)
    step = (octaves[row + 1] - octaves[row - 1]) / 2
    return PitchTrack((octaves[row] + shift * step).exp2(), salience.softmax(-2).amax(-2))


if not hasattr(hlfeat, "pitch"):
    hlfeat.pitch = pitch  # type: ignore[attr-defined]
