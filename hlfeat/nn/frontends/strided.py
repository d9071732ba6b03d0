"""Energies of a Gabor filterbank by one strided convolution a group: for devices other than a CPU, and for exports.

A GPU takes as long for an operation of a thousand values as for one of a million, and waits for memory more than for
multiplications. So each group takes four operations, none of which copies the signal: the filters, the squared modulus,
the mask of outputs past a clip's end, and the smoothing. What a CPU does instead is in hlfeat/nn/frontends/gemm.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.nn.frontends.taps import Taps


def energies(x: Tensor, lengths: Tensor | None, taps: Sequence[Taps]) -> Tensor:
    """Energies of all groups, in the order of the filters.

    Any number of clips and samples takes the same operations, as an export needs.

    Shape: x [B, T], zero past each clip's end; lengths [B] or None -> [B, F, N], N = (T - 1) // hop + 1; what lies
        past a clip's end may be anything.
    """
    beyond = {} if lengths is None else outputs_beyond(lengths, x.shape[1], {t.group.stride for t in taps})
    return torch.cat([group_energies(x[:, None], t, beyond.get(t.group.stride)) for t in taps], 1)


def outputs_beyond(lengths: Tensor, samples: int, strides: set[int]) -> dict[int, Tensor]:
    """Which outputs at each stride lie past their clip's end: bool [B, 1, outputs] each."""
    last = lengths[:, None, None]
    return {s: torch.arange(0, samples, s, device=lengths.device) >= last for s in sorted(strides)}


def group_energies(x: Tensor, taps: Taps, beyond: Tensor | None) -> Tensor:
    """|x * h|^2, smoothed; the smoothing sees zeros outside a clip, not the tails of the filters' outputs.

    Shape: x [B, 1, T]; beyond [B, 1, outputs] or None -> [B, n, N].
    """
    group, n = taps.group, taps.pool.shape[0]
    y = F.conv1d(x, taps.gabor.flatten(0, 1)[:, None], stride=group.stride, padding=group.kernel // 2)
    energy = y.view(-1, 2, n, y.shape[-1]).square().sum(1)  # [B, n, outputs]
    if beyond is not None:
        energy = energy.masked_fill(beyond, 0.0)
    pool = taps.pool[:, None]
    return F.conv1d(energy, pool, stride=group.pool_stride, padding=group.window // 2, groups=n)
