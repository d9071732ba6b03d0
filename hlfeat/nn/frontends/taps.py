"""Taps: Gabor kernels and smoothing windows of groups of filters, and how filters are grouped.

Source: Schlüter & Gutenbrunner, "EfficientLEAF: A Faster LEarnable Audio Frontend of Questionable Use", EUSIPCO 2022
(arXiv 2207.05508). Frequencies are in radians a sample, widths in samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def odd(n: int) -> int:
    """`n`, or the next number up if `n` is even."""
    return n + 1 - n % 2


@dataclass(frozen=True)
class Group:
    """Filters `start` to `stop`: kernel of `kernel` taps at stride `stride`, then `window` taps at `pool_stride`."""

    start: int
    stop: int
    kernel: int
    stride: int
    window: int
    pool_stride: int


@dataclass(frozen=True)
class Grouping:
    """How EfficientLEAF groups filters.

    Args:
        num_groups: groups the filters are split into, in order.
        conv_win_factor: kernel size in multiples of the widest sigma of a group.
        stride_factor: how far the convolution's stride may go beyond the highest centre frequency's Nyquist period.
    """

    num_groups: int
    conv_win_factor: float
    stride_factor: float

    def plan(self, center_freqs: Tensor, bandwidths: Tensor, hop: int, pool_size: int) -> list[Group]:
        """Kernel size, strides and pooling window of each group, from clamped parameters.

        This needs the parameters' values on the host, so it runs when they change and not on every call.

        Shape: center_freqs, bandwidths [F] -> num_groups groups.
        """
        n = len(center_freqs)
        centers, widths = torch.stack([center_freqs.detach(), bandwidths.detach()]).float().cpu()
        divisors = [d for d in range(1, hop + 1) if hop % d == 0]
        groups = []
        for g in range(self.num_groups):
            start, stop = g * n // self.num_groups, (g + 1) * n // self.num_groups
            highest = float(centers[start:stop].max())
            limit = max(1.0, math.pi / highest * self.stride_factor) if highest > 0 else math.inf
            stride = max(d for d in divisors if d <= limit)
            kernel = odd(int(widths[start:stop].max() * self.conv_win_factor))  # the product in float32
            window = odd(int(pool_size / stride + 0.5))
            groups.append(Group(start, stop, kernel, stride, window, hop // stride))
        return groups


def gabor_kernels(center_freqs: Tensor, bandwidths: Tensor, kernel: int) -> Tensor:
    """h_i(t) = 1 / (sqrt(2 pi) sigma_i) exp(-t^2 / (2 sigma_i^2)) exp(j center_i t), t = -(K//2) .. K//2.

    Shape: center_freqs, bandwidths [n] -> [2, n, kernel], real and imaginary parts.
    """
    t = torch.arange(kernel, dtype=center_freqs.dtype, device=center_freqs.device) - kernel // 2
    sigma = bandwidths[:, None]  # [n, 1]
    envelope = torch.exp(-t.square() / (2 * sigma.square())) / (math.sqrt(2 * math.pi) * sigma)  # [n, K]
    phase = center_freqs[:, None] * t  # [n, K]
    return torch.stack([envelope * torch.cos(phase), envelope * torch.sin(phase)])


def pooling_kernels(widths: Tensor, window: int, stride: int, pool_size: int) -> Tensor:
    """w_i(u) = exp(-0.5 (u / v_i)^2) with v_i = widths_i / stride * pool_size / window; not normalised.

    Shape: widths [n] -> [n, window].
    """
    u = torch.linspace(-1, 1, window, dtype=widths.dtype, device=widths.device)
    v = (widths / stride * pool_size / window)[:, None]
    return torch.exp(-0.5 * (u / v).square())


@dataclass(frozen=True)
class Taps:
    """What a group's filters multiply with.

    Shape: gabor [2, n, kernel], real and imaginary; pool [n, window].
    """

    group: Group
    gabor: Tensor
    pool: Tensor


def group_taps(
    groups: Sequence[Group], center_freqs: Tensor, bandwidths: Tensor, widths: Tensor, pool_size: int, at_once: bool
) -> list[Taps]:
    """Taps of every group, differentiable.

    Args:
        at_once: compute all kernels at the longest one's length, and cut them. That takes a quarter of the operations,
            and more multiplications.

    Shape: center_freqs, bandwidths, widths [F].
    """
    pools = [pooling_kernels(widths[g.start : g.stop], g.window, g.stride, pool_size) for g in groups]
    if not at_once:
        gabors = [gabor_kernels(center_freqs[g.start : g.stop], bandwidths[g.start : g.stop], g.kernel) for g in groups]
    else:
        longest = max(g.kernel for g in groups)
        kernels = torch.split(gabor_kernels(center_freqs, bandwidths, longest), [g.stop - g.start for g in groups], 1)
        cuts = [(longest - g.kernel) // 2 for g in groups]
        gabors = [k[..., cut : longest - cut].contiguous() for k, cut in zip(kernels, cuts, strict=True)]
    return [Taps(*taps) for taps in zip(groups, gabors, pools, strict=True)]
