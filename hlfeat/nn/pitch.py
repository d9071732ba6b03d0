"""Stand-in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PitchTrack(NamedTuple):
    frequency: Tensor
    confidence: Tensor


def pitch(salience: Tensor, freqs: Tensor, *, viterbi: bool = False) -> PitchTrack:
    """Shape: salience [..., F, N], freqs [F] -> [..., N] each."""
    high, row = salience.max(-2)
    spread = high - salience.amin(-2)
    voiced = spread > 1e-3
    confidence = torch.where(voiced, spread / (1 + spread), 0.0)
    return PitchTrack(torch.where(voiced, freqs[row], 0.0), confidence)
