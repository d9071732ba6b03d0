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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hlfeat.nn._private_torch import WatchedModule, compiler_imported, differentiated_elsewhere, exporting
from hlfeat.nn.device import without_autocast
from hlfeat.nn.frontends import gemm, strided
from hlfeat.nn.frontends.gemm_gradient import cpu_energies, plain_cpu
from hlfeat.nn.frontends.gemm_plan import GroupFilters, group_filters
from hlfeat.nn.frontends.taps import Group, Grouping, Taps, group_taps
from hlfeat.nn.gpu_kernels import kernels_run
from hlfeat.nn.masking import mask_frames
from hlfeat.nn.parameter_cache import Kept

# Full width at half maximum of a Gaussian's spectrum is 2 sqrt(2 ln 2) / sigma; LEAF's bounds on sigma follow from it.
Z = math.sqrt(2 * math.log(2)) / math.pi


def num_frames(length: int, hop: int) -> int:
    """Frames of a signal of `length` samples: frame n is centred on sample n * hop, and that sample exists."""
    return (length - 1) // hop + 1


def clamp_keep_grad(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """Clamp the value, pass the gradient as if it had not been clamped.

    A plain clamp gives zero gradient outside the range, so a parameter that once stepped out could never come back.
    The last term is exactly zero: the value is the clamped one to the bit.
    """
    return x.detach().clamp(low, high) + (x - x.detach())


class Filters(NamedTuple):
    """What energies are computed with: taps for convolutions, matrices for products, kernels as the Triton kernel
    takes them."""

    taps: list[Taps]
    matrices: list[GroupFilters] | None = None
    packed: list[Tensor] | None = None


def products_pay(device: torch.device) -> bool:
    """Whether energies are computed by matrix products there (gemm.py, gemm_cpu.py) or by convolutions (strided.py).

    On a CPU, products of folded frames take half of the multiplications of convolutions. On a GPU, the folded copies
    are most of the memory's traffic. Inference there takes a Triton kernel (_triton_energies.py) where one runs.
    """
    return device.type == "cpu"


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
        self._filters: Kept[Filters] = Kept()
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

    def make_taps(self, at_once: bool = False) -> list[Taps]:
        """The taps of every group, differentiable with respect to the parameters; `at_once`: in fewer operations."""
        return group_taps(self.groups(), *self.clamped(), self.pool_size, at_once)

    def make_filters(self) -> Filters:
        """The taps, and where products pay also the matrices, differentiable with respect to the parameters."""
        products = products_pay(self.center_freqs.device)
        taps = self.make_taps(at_once=not products)
        return Filters(taps, [group_filters(t) for t in taps] if products else None)

    def filters(self) -> Filters:
        """The filters: cached in eval mode, and made on each call where gradients have to reach the parameters."""
        if self._needs_gradients():
            return self.make_filters()
        return self._filters.get(self._shapes(), self._make_kept)

    def _make_kept(self) -> Filters:
        filters = self.make_filters()
        if self.center_freqs.dtype == torch.float64 or not kernels_run(self.center_freqs.device):
            return filters
        from hlfeat.nn.frontends import _triton_energies

        return filters._replace(packed=[_triton_energies.packed(t) for t in filters.taps])

    def _shapes(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
        return self.center_freqs, self.bandwidths, self.pooling_widths

    def _needs_gradients(self) -> bool:
        """Whether filters are made on each call, because gradients have to reach the parameters."""
        return self.training or (torch.is_grad_enabled() and any(p.requires_grad for p in self._shapes()))

    def _kernel_serves(self, x: Tensor) -> bool:
        """Whether the Triton kernel may compute the energies: it has no gradient, and nobody can see into it."""
        if torch.compiler.is_compiling() or not kernels_run(x.device):
            return False
        return not (torch.is_grad_enabled() and x.requires_grad) and not differentiated_elsewhere(x, *self._shapes())

    def kept_filters(self) -> Filters:
        """The filters as constants, for torch.export: their sizes depend on parameters' values, which it hides.

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
                taps, matrices, packed = self.kept_filters()
            elif compiler_imported():
                from hlfeat.nn._untraced import untraced

                taps, matrices, packed = untraced(self.filters)
            else:
                taps, matrices, packed = self.filters()
            x = x.to(taps[0].gabor.dtype)
            if matrices is not None and not export and plain_cpu(x, matrices):
                return cpu_energies(x, lengths, matrices, self.hop)
            if packed is not None and not export and self._kernel_serves(x):
                from hlfeat.nn.frontends import _triton_energies

                return self._masked(_triton_energies.energies(x, lengths, taps, packed), lengths)
            x = mask_frames(x, lengths)
            if matrices is None or export:
                bands = strided.energies(x, lengths, taps)
            else:
                bands = gemm.energies(x, lengths, matrices, self.hop)
            return self._masked(bands, lengths)

    def _masked(self, bands: Tensor, lengths: Tensor | None) -> Tensor:
        """Energies whose frames past a clip's end are zero."""
        if lengths is None:
            return bands
        return mask_frames(bands, (lengths - 1).div(self.hop, rounding_mode="floor") + 1)

    def parameters_moved(self) -> None:
        self._filters.drop()
        self._groups.drop()

    def train(self, mode: bool = True) -> GaborFilterbank:
        self.parameters_moved()
        return super().train(mode)
