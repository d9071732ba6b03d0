"""Weights of a harmonic convolution that make it a pitch salience, without training.

Sources: harmonic summation: Hermes, "Measurement of pitch by subharmonic summation", JASA 83, 1988; Klapuri, "Multiple
fundamental frequency estimation by summing harmonic amplitudes", ISMIR 2006. Negative weights between harmonics:
Camacho and Harris, "A sawtooth waveform inspired pitch estimator" (SWIPE), JASA 124, 2008.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hlfeat.config.layers import SALIENCE_DECAY, SALIENCE_VALLEY
from hlfeat.nn.harmonic.axis_conv import AxisHarmonicConv2d

NOISE = 0.1  # of the weights' root mean square


def salience_weights(
    kernel: int, anchor: int = 2, *, decay: float = SALIENCE_DECAY, valley: float = SALIENCE_VALLEY
) -> Tensor:
    """The weight of each row of a kernel, whose row k lies at k / anchor times the frequency of the output's row.

    At harmonic h = 1 ... H, which is row k = h * anchor:       w = h^-decay
    half-way between h and h + 1, row k = (h + 1/2) * anchor:   w = -valley * (w_h + w_(h + 1)) / 2
    elsewhere:                                                  w = 0

    Half-way includes below the first and above the last harmonic, as far as the kernel reaches; a neighbour that is not
    in the kernel counts as zero. So with valley 1 and a kernel that ends half-way, such as 21 rows of anchor 2, weights
    add up to zero: what all rows have in common cancels where all harmonics lie on the axis. Near its ends some do not,
    and read zero: there, noise is a little stronger. In a row an octave above the pitch, every second harmonic of the
    sound lies half-way and is subtracted.

    Shape: -> float64 [kernel].

    Raises:
        ValueError: an anchor that is not even, as half-harmonics lie between the rows of a kernel then; a kernel that
            ends before the second harmonic; a decay or valley below zero.

    Example:
        >>> salience_weights(5, decay=1.0, valley=1.0).tolist()  # at 0.5, 1, 1.5, 2, 2.5 times the frequency
        [-0.5, 1.0, -0.75, 0.5, -0.25]
    """
    if anchor < 2 or anchor % 2:
        raise ValueError(f"expected an even anchor, such as 2, got {anchor}")
    if kernel < 2 * anchor:
        raise ValueError(f"expected a kernel of at least {2 * anchor} harmonics with anchor {anchor}, got {kernel}")
    if not (decay >= 0 and valley >= 0):
        raise ValueError(f"expected decay and valley from 0, got {decay} and {valley}")
    summed = kernel // anchor  # H
    harmonics = torch.zeros(summed + 2, dtype=torch.float64)  # of 0 ... H + 1; the outer ones are not in the kernel
    harmonics[1:-1] = torch.arange(1, summed + 1, dtype=torch.float64) ** -decay
    between = -valley * (harmonics[:-1] + harmonics[1:]) / 2  # of 1/2, 3/2 ... H + 1/2
    weights = torch.zeros((2 * summed + 1) * (anchor // 2), dtype=torch.float64)
    weights[anchor - 1 :: anchor] = harmonics[1:-1]
    weights[anchor // 2 - 1 :: anchor] = between
    return torch.cat([weights, weights.new_zeros(anchor)])[:kernel]


def init_salience_(
    conv: AxisHarmonicConv2d, *, decay: float = SALIENCE_DECAY, valley: float = SALIENCE_VALLEY
) -> AxisHarmonicConv2d:
    """Set the weights of a harmonic convolution so that it is a pitch salience; they can be trained on from there.

    The weights of `salience_weights` are divided by the input channels of a group and the frames of the kernel, so that
    these are averaged; bias is zero. The output is large at the rows where a harmonic sound has its pitch: see
    `hlfeat.pitch`. Several output channels would stay the same in training, so noise is added to each, a tenth of the
    weights' root mean square, from torch's random generator; docs/evidence.md compares this with other ways.

    Args:
        conv: a HarmonicConv2d or LogHarmonicConv2d, changed in place.
        decay: p of the harmonics' weights h^-p.
        valley: v, weight of what lies between harmonics, which is subtracted.

    Returns:
        The same convolution.

    Raises:
        ValueError: as `salience_weights`.

    Example:
        >>> import hlfeat, torch
        >>> conv = hlfeat.LogHarmonicConv2d(1, 1, (21, 1), anchor=2, bins_per_octave=12)
        >>> spectrum = torch.zeros(1, 1, 61, 1)
        >>> spectrum[0, 0, [12, 24, 31, 36, 40, 43]] = 1.0  # harmonics 1 to 6 of row 12
        >>> hlfeat.init_salience_(conv)(spectrum).argmax().item()
        12
    """
    harmonics, frames = conv.kernel_size
    rows = salience_weights(harmonics, conv.anchor, decay=decay, valley=valley) / (conv.weight.shape[1] * frames)
    with torch.no_grad():
        conv.weight.copy_(rows[:, None].expand_as(conv.weight))
        if conv.out_channels > 1:
            conv.weight.add_(torch.randn_like(conv.weight), alpha=NOISE * rows.square().mean().sqrt().item())
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    return conv
