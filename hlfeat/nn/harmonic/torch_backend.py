"""Torch backend of harmonic convolution: gathers rows in chunks and convolves them.

Lowering gathers every row that every harmonic reads and runs one ordinary convolution over it; that copy is Kf times
the input. Here it is made in chunks (some batch items times a block of output rows), and rows that a harmonic does not
reach are left out (hlfeat/nn/harmonic/chunks.py). Since the channels of a chunk are ordered (c, k), the weight of the
inner convolution is the weight as it lies in memory, groups included.

The gradient of the gather is the product with the transposed sparse matrix, a gather again, each sum in a fixed order:
nothing is added to a shared place. So gradients are the same to the bit every time where those of the inner
convolution are: on CPUs, and on CUDA with torch.backends.cudnn.deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hlfeat.nn.harmonic.chunks import Block, chunks
from hlfeat.nn.harmonic.plan import Plan, Time


def prepared(x: Tensor) -> Tensor:
    """The tensor as it is read here: planes of rows."""
    return x.contiguous()


def gather(x: Tensor, block: Block) -> Tensor:
    """The rows that a block reads: [B, C, F, T] -> [B, C * harmonics, rows, T]."""
    low = block.gather(x.reshape(-1, x.shape[3]), x.shape[0] * x.shape[1])
    return low.view(x.shape[0], x.shape[1] * block.n_ks, block.last - block.first, x.shape[3])


def kernel_of(weight: Tensor, block: Block) -> Tensor:
    """The weights of a block's harmonics: [O, C, Kf, Kt] -> [O, C * harmonics, 1, Kt]."""
    return weight[:, :, block.ks].flatten(1, 2).unsqueeze(2)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, time: Time) -> Tensor:
    """Y of hlfeat/nn/harmonic/functional.py.

    Shape: as `harmonic_conv2d`; x as from `prepared`.
    """
    items, blocks = chunks(x, weight, plan, time)
    if len(blocks) == 1 and len(x) == items and blocks[0].n_ks:  # one chunk is the whole result
        return time.conv(gather(x, blocks[0]), kernel_of(weight, blocks[0]), bias)
    y = x.new_empty(len(x), len(weight), plan.rows_out, time.frames(x.shape[3], weight.shape[3]))
    for block in blocks:
        kernel = kernel_of(weight, block)
        for i in range(0, len(x), items):
            part: Tensor | float = 0.0 if bias is None else bias[:, None, None]
            if block.n_ks:
                part = time.conv(gather(x[i : i + items], block), kernel, bias)
            y[i : i + items, :, block.first : block.last] = part
    return y


def gradients(
    x: Tensor, weight: Tensor, gy: Tensor, plan: Plan, time: Time, need_x: bool, need_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and of the weight, as far as they are needed, from that of Y."""
    gx = torch.zeros_like(x) if need_x else None
    gw = torch.zeros_like(weight) if need_w else None
    items, blocks = chunks(x, weight, plan, time)
    for block in blocks:
        if not block.n_ks or not (need_x or need_w):
            continue
        kernel = kernel_of(weight, block)
        for i in range(0, len(x), items):
            low = gather(x[i : i + items], block)
            g_low, g_kernel, _ = torch.ops.aten.convolution_backward(
                gy[i : i + items, :, block.first : block.last],
                low,
                kernel,
                None,
                (1, time.stride),
                (0, time.padding),
                (1, time.dilation),
                False,
                (0, 0),
                time.groups,
                (need_x, need_w, False),
            )
            if gw is not None:
                gw[:, :, block.ks] += g_kernel.view(len(gw), -1, block.n_ks, gw.shape[3])
            if gx is not None:
                part = gx[i : i + items, :, block.x_first : block.x_last]
                planes = low.shape[0] * x.shape[1]
                part += block.adjoint(g_low.reshape(-1, x.shape[3]), planes).view(part.shape)
    return gx, gw
