"""Learnable Gabor filterbank in groups of filters with similar bandwidth.

Source: Schlüter & Gutenbrunner, "EfficientLEAF: A Faster LEarnable Audio Frontend of Questionable Use", EUSIPCO 2022
(arXiv 2207.05508), after Zeghidour et al., "LEAF: A Learnable Frontend for Audio Classification", ICLR 2021.

Every filter of a bank could be convolved at full rate with one long kernel; almost all of that work is wasted. Low
filters are long but narrow, so their output may be computed at a fraction of the rate; high filters need the rate but
are short. Filters are therefore split in order into groups, and each group gets the kernel size and the stride that its
widest and its highest filter ask for. Frequencies are in radians a sample, widths in samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hlfeat.nn._private_torch import WatchedModule, compiler_imported, exporting
from hlfeat.nn.device import without_autocast
from hlfeat.nn.frontends.gemm import energies, plain_energies
from hlfeat.nn.frontends.gemm_gradient import cpu_energies, plain_cpu
from hlfeat.nn.frontends.gemm_plan import Group, GroupFilters, group_filters
from hlfeat.nn.masking import frame_mask, mask_frames
from hlfeat.nn.parameter_cache import Kept

# Full width at half maximum of a Gaussian's spectrum is 2 sqrt(2 ln 2) / sigma; LEAF's bounds on sigma follow from it.
Z = math.sqrt(2 * math.log(2)) / math.pi


def odd(n: int) -> int:
    """`n`, or the next number up if `n` is even."""
    return n + 1 - n % 2


def num_frames(length: int, hop: int) -> int:
    """Frames of a signal of `length` samples: frame n is centred on sample n * hop, and that sample exists."""
    return (length - 1) // hop + 1


def clamp_keep_grad(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """Clamp the value, pass the gradient as if it had not been clamped.

    A plain clamp gives zero gradient outside the range, so a parameter that once stepped out could never come back.
    The last term is exactly zero: the value is the clamped one to the bit.
    """
    return x.detach().clamp(low, high) + (x - x.detach())


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


class GaborFilterbank(WatchedModule):
    """Squared magnitudes of Gabor filters, smoothed by Gaussian windows: energies at the frame rate.

    Parameters live outside their useful range only as values: forward sees them clamped to center_freqs [0, pi],
    bandwidths [2 z, P z] and pooling_widths [2 / P, 0.5] (P the pooling window in samples), and never writes to them.
    Energies are computed in float32 (float64 for float64 parameters), under autocast too.

    Where filters have to be made anew (in training, or after a change), kernel sizes and strides follow from the
    parameters' values, so a GPU is waited for once; a call with kept filters does not wait.

    Args:
        center_freqs, bandwidths: initial values [F], radians a sample and samples.
        pool_size: pooling window P, samples, odd.
        hop: distance of frames, samples.
        grouping: how filters share kernel sizes and strides. None is the original LEAF: every filter has P taps at
            stride 1, and bandwidths are clamped to [4 z, P z].

    Shape:
        - input: x [B, T], lengths [B] or None
        - output: energies [B, F, N], N = (T - 1) // hop + 1; frames past a clip's end are zero
    """

    def __init__(
        self, center_freqs: np.ndarray, bandwidths: np.ndarray, pool_size: int, hop: int, grouping: Grouping | None
    ) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.hop = hop
        self.grouping = grouping
        dtype = torch.get_default_dtype()
        self.center_freqs = nn.Parameter(torch.tensor(center_freqs, dtype=dtype))
        self.bandwidths = nn.Parameter(torch.tensor(bandwidths, dtype=dtype))
        self.pooling_widths = nn.Parameter(torch.full((len(center_freqs),), 0.4, dtype=dtype))
        self._filters: Kept[list[GroupFilters]] = Kept()
        self._groups: Kept[list[Group]] = Kept()

    def clamped(self) -> tuple[Tensor, Tensor, Tensor]:
        """Centre frequencies (rad/sample), bandwidths (samples) and pooling widths inside their ranges: 3 x [F]."""
        p, narrowest = self.pool_size, 2 * Z if self.grouping else 4 * Z
        dtype = torch.float64 if self.center_freqs.dtype == torch.float64 else torch.float32
        return (
            clamp_keep_grad(self.center_freqs.to(dtype), 0.0, math.pi),
            clamp_keep_grad(self.bandwidths.to(dtype), narrowest, p * Z),
            clamp_keep_grad(self.pooling_widths.to(dtype), 2 / p, 0.5),
        )

    def groups(self) -> list[Group]:
        """The groups that the parameters' present values ask for; the host waits for these when they have changed."""
        return self._groups.get((self.center_freqs, self.bandwidths), self._make_groups)

    def _make_groups(self) -> list[Group]:
        if self.grouping is None:
            return [Group(0, len(self.center_freqs), self.pool_size, 1, self.pool_size, self.hop)]
        centers, sigmas, _ = self.clamped()
        return self.grouping.plan(centers, sigmas, self.hop, self.pool_size)

    def make_filters(self) -> list[GroupFilters]:
        """The matrices of every group, differentiable with respect to the parameters."""
        centers, sigmas, widths = self.clamped()
        return [
            group_filters(
                g,
                gabor_kernels(centers[g.start : g.stop], sigmas[g.start : g.stop], g.kernel),
                pooling_kernels(widths[g.start : g.stop], g.window, g.stride, self.pool_size),
            )
            for g in self.groups()
        ]

    def filters(self) -> list[GroupFilters]:
        """The matrices: cached in eval mode, and made on each call where gradients have to reach the parameters."""
        params = (self.center_freqs, self.bandwidths, self.pooling_widths)
        if self.training or (torch.is_grad_enabled() and any(p.requires_grad for p in params)):
            return self.make_filters()
        return self._filters.get(params, self.make_filters)

    def kept_filters(self) -> list[GroupFilters]:
        """The matrices as constants, for torch.export: their sizes depend on parameters' values, which it hides.

        Raises:
            RuntimeError: there are none, as the module has not run in eval mode without gradients.
        """
        if self._filters.made is None:
            raise RuntimeError("to export, call the module once before, in eval mode and under torch.no_grad()")
        return self._filters.made

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        with without_autocast(x.device):
            export = exporting()
            if export:
                filters = self.kept_filters()
            elif compiler_imported():
                from hlfeat.nn._untraced import untraced

                filters = untraced(self.filters)
            else:
                filters = self.filters()
            x = x.to(filters[0].parts[0].even.dtype)
            if not export and plain_cpu(x, filters):
                return cpu_energies(x, lengths, filters, self.hop)
            if lengths is not None:
                x = x.masked_fill(~frame_mask(lengths, x.shape[-1]), 0.0)
            bands = plain_energies(x, lengths, filters) if export else energies(x, lengths, filters, self.hop)
            if lengths is not None:
                bands = mask_frames(bands, (lengths - 1).div(self.hop, rounding_mode="floor") + 1)
            return bands

    def parameters_moved(self) -> None:
        self._filters.drop()
        self._groups.drop()

    def train(self, mode: bool = True) -> GaborFilterbank:
        self.parameters_moved()
        return super().train(mode)
