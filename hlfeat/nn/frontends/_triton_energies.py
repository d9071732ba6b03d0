"""Energies of a group of Gabor filters in one Triton kernel, without a gradient: for inference on a GPU.

A convolution writes its outputs, real and imaginary parts, and four more operations read or write them until they are
smoothed. Here the filters, the squared modulus and the mask are one kernel, which reads the signal and writes energies:
a third of the bytes. It is a matrix product whose left side is read from the signal as it is needed,

    z[m, i] = sum over t of  x[m s + t - K // 2] h_i(t),      energy[m, i] = |z[m, i]|^2.

The smoothing is a convolution as elsewhere. Only hlfeat/nn/frontends/gabor.py uses this module, where Triton runs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from hlfeat.nn.frontends.taps import Taps
from hlfeat.precision import tf32_convolutions

# The fastest of seven on an H200; at most 128 registers a thread, none spilled.
BLOCK_OUTPUTS, BLOCK_TAPS, WARPS = 64, 32, 4


# Batches of other lengths, and groups of other sizes, take the kernel that has been compiled.
@triton.jit(do_not_specialize=["samples", "outputs", "taps", "stride", "filters", "tiles"])
def squared_modulus_kernel(
    x, lengths, kernels, energy, samples, outputs, taps, stride, filters, tiles,
    HAS_LENGTHS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M outputs of one clip, all filters of the group.

    Shape: x [B, samples], lengths [B], kernels [taps and more, 2, BLOCK_N] with zeros after the last tap and filter,
        energy [B, filters, outputs].
    """
    item = (tl.program_id(0) // tiles).to(tl.int64)
    m = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    i = tl.arange(0, BLOCK_N)
    end = samples
    if HAS_LENGTHS:
        end = tl.load(lengths + item).to(tl.int32)
    signal = x + item * samples
    first = m * stride - taps // 2
    real = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    imag = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for begin in range(0, taps, BLOCK_K):
        t = begin + tl.arange(0, BLOCK_K)
        at = first[:, None] + t[None, :]
        left = tl.load(signal + at, mask=(at >= 0) & (at < end), other=0.0)
        right = kernels + t[:, None] * (2 * BLOCK_N) + i[None, :]
        real = tl.dot(left, tl.load(right), real, input_precision=PRECISION)
        imag = tl.dot(left, tl.load(right + BLOCK_N), imag, input_precision=PRECISION)
    inside = (m * stride < end)[:, None]
    result = tl.where(inside, real * real + imag * imag, 0.0)
    at = energy + item * filters * outputs + i[None, :] * outputs + m[:, None]
    tl.store(at, result, mask=(m < outputs)[:, None] & (i < filters)[None, :])


def packed(taps: Taps) -> Tensor:
    """The kernels as the product takes them: [taps and more, 2, filters and more], a power of two of filters."""
    size = max(16, triton.next_power_of_2(taps.pool.shape[0]))
    gabor = F.pad(taps.gabor, (0, -taps.group.kernel % BLOCK_TAPS, 0, size - taps.pool.shape[0]))
    return gabor.permute(2, 0, 1).contiguous()


def squared_modulus(x: Tensor, lengths: Tensor | None, taps: Taps, kernels: Tensor) -> Tensor:
    """|x * h|^2 of one group at its stride, zero past a clip's end.

    Multiplies as torch.backends.cudnn.conv.fp32_precision says: in TF32, or in three products of TF32, which keep the
    mantissa of float32.

    Shape: x float32 [B, T], whatever it has past a clip's end; lengths [B], contiguous, or None; `kernels` from
        `packed` -> [B, n, outputs].
    """
    (batch, samples), stride, n = x.shape, taps.group.stride, taps.pool.shape[0]
    outputs = (samples - 1) // stride + 1
    energy = x.new_empty(batch, n, outputs)
    tiles = triton.cdiv(outputs, BLOCK_OUTPUTS)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        squared_modulus_kernel[(tiles * batch,)](
            x.contiguous(),
            lengths,
            kernels,
            energy,
            samples,
            outputs,
            taps.group.kernel,
            stride,
            n,
            tiles,
            HAS_LENGTHS=lengths is not None,
            PRECISION="tf32" if tf32_convolutions() else "tf32x3",
            BLOCK_M=BLOCK_OUTPUTS,
            BLOCK_K=BLOCK_TAPS,
            BLOCK_N=kernels.shape[2],
            num_warps=WARPS,
            num_stages=1,
        )
    return energy


def energies(x: Tensor, lengths: Tensor | None, taps: list[Taps], kernels: list[Tensor]) -> Tensor:
    """As hlfeat/nn/frontends/strided.py, without a gradient: x [B, T], lengths [B] or None -> [B, F, N]."""
    lengths = None if lengths is None else lengths.contiguous()
    bands = []
    for t, kernel in zip(taps, kernels, strict=True):
        energy, pool = squared_modulus(x, lengths, t, kernel), t.pool[:, None]
        group = t.group
        bands.append(F.conv1d(energy, pool, stride=group.pool_stride, padding=group.window // 2, groups=len(pool)))
    return torch.cat(bands, 1)
