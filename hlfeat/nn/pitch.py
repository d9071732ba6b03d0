"""Pitch from salience: the strongest row of each frame, its frequency between rows, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hlfeat.errors import UsageError

TOLERANCE = 50.0  # cents on either side of a pitch that count for its confidence: a quarter tone
JUMP = 240.0  # cents: the limit of moves from a frame to the next that are no leaps
LEAP = 0.01  # probability of a leap to any row


class PitchTrack(NamedTuple):
    """A pitch for each frame, as `hlfeat.pitch` returns it.

    Attributes:
        frequency: hertz; 0 where there is none.
        confidence: 0 to 1.

    Shape: both [..., N].

    Example:
        >>> import hlfeat, torch
        >>> track = hlfeat.pitch(torch.tensor([[0.0], [9.0], [0.0]]), [220.0, 440.0, 880.0])
        >>> track.frequency.tolist()
        [440.0]
    """

    frequency: Tensor
    confidence: Tensor


def pitch(
    salience: Tensor | np.ndarray, freqs: Tensor | np.ndarray | Sequence[float], *, viterbi: bool = False
) -> PitchTrack:
    """The pitch of each frame of a salience, such as the configuration `pitch-salience` computes.

    The frequency is that of the strongest row, moved to the vertex of the parabola through it and its two neighbours:
    over rows, between which it is interpolated in log frequency. The confidence is the probability, by the softmax over
    rows, of the two rows around the pitch and of others within 50 cents: near 1 for a harmonic sound, below 0.3 for
    white noise. A frame whose rows are all equal, as of digital silence, has no pitch: frequency 0 and confidence 0.

    Args:
        salience: of rows, finite; only differences between rows matter.
        freqs: of the rows in hertz, in any order. Rows at 0 Hz are left out.
        viterbi: instead of each frame's strongest row, find the most probable path of rows over the frames. From a
            frame to the next it moves by less than 240 cents, the less the likelier (crepe's triangle), but for leaps,
            which have a probability of 1 %. The frames are taken as one clip's. It needs librosa (extra `pitch`).

    Shape: salience [..., F, N], freqs [F] -> frequency and confidence, both [..., N]: float64 for salience in float64,
        otherwise float32.

    Raises:
        ValueError: sizes that do not go together, salience that is not finite, frequencies that are negative or not
            finite.
        UsageError: `viterbi` without librosa.

    Example:
        >>> import hlfeat, torch
        >>> extractor = hlfeat.build("pitch-salience").eval()
        >>> freqs = extractor.output_freqs()  # of rows, in hertz
        >>> tone = sum(torch.sin(2 * torch.pi * 220 * h * torch.arange(16000) / 16000) / h for h in range(1, 6))
        >>> track = hlfeat.pitch(extractor(tone[None])[0, 0], freqs)
        >>> 219 < track.frequency[50].item() < 221, track.confidence[50].item() > 0.9
        (True, True)
    """
    salience, hertz = _tensor(salience), _tensor(freqs).detach()
    if salience.dim() < 2 or hertz.dim() != 1 or salience.shape[-2] != len(hertz):
        raise ValueError(
            f"expected salience [..., F, N] and freqs [F], got {list(salience.shape)} and {list(hertz.shape)}"
        )
    if not bool(salience.isfinite().all()):
        raise ValueError("expected salience that is finite")
    hertz = hertz.to("cpu", torch.float64)
    if not bool((hertz.isfinite() & (hertz >= 0)).all()):
        raise ValueError("expected frequencies of rows that are finite and not negative")
    rows = hertz.argsort(stable=True)
    rows = rows[hertz[rows] > 0]
    if not len(rows):
        raise ValueError("expected a row above 0 Hz, got none")
    octaves = hertz[rows].log2().to(salience.device)  # rising
    y = salience.detach().index_select(-2, rows.to(salience.device)).double()
    probability = y.softmax(-2)
    row = _path(probability, octaves) if viterbi else y.argmax(-2)
    place = row + _vertex(y, row)  # in rows
    position = octaves_at(octaves, place)
    near = (octaves[:, None] - position[..., None, :]).abs() <= TOLERANCE / 1200 + 1e-9
    near |= (torch.arange(len(octaves), device=y.device)[:, None] - place[..., None, :]).abs() < 1
    exists = (y.amax(-2) > y.amin(-2)) & (len(octaves) > 1)  # a row alone is as probable as it gets
    confidence = (probability * near).sum(-2).clamp(0, 1)
    dtype = torch.promote_types(torch.float32, salience.dtype)
    return PitchTrack(
        torch.where(exists, position.exp2(), 0.0).to(dtype), torch.where(exists, confidence, 0.0).to(dtype)
    )


def _tensor(values: Tensor | np.ndarray | Sequence[float]) -> Tensor:
    """A tensor; of an array a copy, which may be read-only or have negative strides."""
    return torch.from_numpy(np.array(values)) if isinstance(values, np.ndarray) else torch.as_tensor(values)


def octaves_at(octaves: Tensor, position: Tensor) -> Tensor:
    """The log frequency at fractional rows, linear between rows.

    Shape: octaves [F], position [...] -> [...].
    """
    last = len(octaves) - 1
    low = position.floor().long().clamp(0, max(0, last - 1))
    high = (low + 1).clamp(max=last)
    return torch.lerp(octaves[low], octaves[high], (position - low).to(octaves.dtype))


def _vertex(y: Tensor, row: Tensor) -> Tensor:
    """How far the vertex of the parabola lies from a row, in rows: within half a row; 0 where the row is no maximum.

    Shape: y [..., F, N], row [..., N] -> [..., N].
    """
    last = y.shape[-2] - 1
    below, at, above = (y.gather(-2, (row + d).clamp(0, last)[..., None, :])[..., 0, :] for d in (-1, 0, 1))
    maximum = (row > 0) & (row < last) & (at >= below) & (at >= above) & (2 * at > below + above)
    curvature = torch.where(maximum, below - 2 * at + above, -1.0)
    return torch.where(maximum, 0.5 * (below - above) / curvature, 0.0)


def _path(probability: Tensor, octaves: Tensor) -> Tensor:
    """The most probable rows over time.

    Shape: probability [..., F, N], octaves [F] -> [..., N].
    """
    try:
        from librosa.sequence import viterbi
    except ImportError as e:
        raise UsageError(f"viterbi: needs librosa: pip install 'hlfeat[pitch]' ({e})") from e
    shape = (*probability.shape[:-2], probability.shape[-1])
    if not probability.numel():
        return torch.zeros(shape, dtype=torch.long, device=probability.device)
    clips = probability.reshape(-1, *probability.shape[-2:]).cpu().numpy()
    cents = 1200 * octaves.cpu().numpy()
    near = np.maximum(JUMP - np.abs(cents[:, None] - cents), 0)  # [F, F], a triangle over the rows around each
    transition = (1 - LEAP) * near / near.sum(1, keepdims=True) + LEAP / len(cents)
    paths = np.stack([viterbi(clip, transition) for clip in clips]).astype(np.int64)
    return torch.from_numpy(paths).reshape(shape).to(probability.device)
