"""Frequency responses of filters: power gain, centre frequencies and bandwidths in hertz."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hlfeat.nn.frontends.gabor import GaborFilterbank
from hlfeat.nn.frontends.scales import spaced_frequencies
from hlfeat.nn.frontends.taps import gabor_kernels

RESPONSE_FFT = 1 << 14  # at least: 1 Hz from point to point at 16 kHz


@dataclass(frozen=True)
class Responses:
    """Filters in frequency: power gain [F, K] at `hertz` [K]; centre frequencies and half-power bandwidths [F], Hz."""

    hertz: np.ndarray
    gain: np.ndarray
    centres: np.ndarray
    bandwidths: np.ndarray


@torch.no_grad()
def gabor_responses(bank: GaborFilterbank, sample_rate: int) -> Responses:
    """Power gain of the kernels as they are convolved, cut off where the group's kernel ends; computed on the host.

    Of a Gabor filter without its cut the gain is exp(-sigma^2 (w - center)^2), half at sqrt(ln 2) / sigma on either
    side of its centre: the bandwidth is sample_rate sqrt(ln 2) / (pi sigma).
    """
    centres, sigmas = (x.cpu() for x in bank.clamped()[:2])
    groups = bank.groups()
    size = max(RESPONSE_FFT, *(1 << g.kernel.bit_length() for g in groups))
    gain = []
    for g in groups:
        real, imag = gabor_kernels(centres[g.start : g.stop], sigmas[g.start : g.stop], g.kernel)
        gain.append(torch.fft.fft(torch.complex(real, imag), size)[:, : size // 2 + 1].abs().square())
    hertz = np.arange(size // 2 + 1) * (sample_rate / size)
    bandwidths = sample_rate * math.sqrt(math.log(2)) / (math.pi * sigmas.double())
    return Responses(
        hertz, torch.cat(gain).numpy(), centres.double().numpy() * sample_rate / (2 * math.pi), bandwidths.numpy()
    )


def mel_responses(matrix: Tensor, low: float, high: float, sample_rate: int) -> Responses:
    """Weights of mel filters over the power of an FFT's bins; triangles are half as wide as their feet.

    Shape: matrix [bins, F], of filters from `low` to `high` hertz.
    """
    gain: np.ndarray = matrix.cpu().numpy().T  # [F, bins]
    hertz = np.linspace(0, sample_rate / 2, gain.shape[1])
    edges = spaced_frequencies(len(gain) + 2, low, high)
    return Responses(hertz, gain, edges[1:-1], (edges[2:] - edges[:-2]) / 2)
