"""Harmonic convolution as one operation that knows positions only, whatever the axis.

    Y[o, f, t] = bias[o] + sum over c, k = 1..Kf, u of  W[o, c, k, u] * X[c, p_k(f), t + u]

Sources: Zhang et al., "Deep Audio Priors Emerge from Harmonic Convolutional Networks", ICLR 2020; Takeuchi et al.,
"Harmonic Lowering for Accelerating Harmonic Convolution for Audio Signals", Interspeech 2020.

Lowering gathers every row that every harmonic reads and runs one ordinary convolution over it; that copy is Kf times
the input. Here it is made in pieces (some batch items times a block of output rows) that stay in cache, and rows that a
harmonic does not reach are left out (hlfeat/harmonic_plan.py). Since the channels of a piece are ordered (c, k), the
weight of the inner convolution is the weight as it lies in memory, groups included.

Gradients: backward keeps the input and the weight only, and gathers anew, piece by piece. The gradient of the gather is
the product with the transposed sparse matrix, a gather again, each sum in a fixed order: nothing is added to a shared
place, so the result is deterministic. That is what the autograd.Function is for; autograd's own derivative would
scatter. Second derivatives, torch.compile and torch.export take `plain`, the same in ordinary torch operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.harmonic_plan import Block, Budget, Plan, interpolation, plan_for


class Time(NamedTuple):
    """How the convolution runs along time, and its groups."""

    stride: int
    padding: int
    dilation: int
    groups: int

    def conv(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """conv1d along the last dimension.

        Shape: x [B, C, F, T], kernel [O, C / groups, 1, Kt] -> [B, O, F, T'].
        """
        return F.conv2d(x, kernel, bias, (1, self.stride), (0, self.padding), (1, self.dilation), self.groups)

    def frames(self, t: int, kernel: int) -> int:
        """T' of an input of T frames."""
        return (t + 2 * self.padding - self.dilation * (kernel - 1) - 1) // self.stride + 1


def gather(x: Tensor, block: Block) -> Tensor:
    """The rows that a block reads: [B, C, F, T] -> [B, C * harmonics, rows, T]."""
    low = block.gather(x.reshape(-1, x.shape[3]), x.shape[0] * x.shape[1])
    return low.view(x.shape[0], x.shape[1] * block.n_ks, block.last - block.first, x.shape[3])


def kernel_of(weight: Tensor, block: Block) -> Tensor:
    """The weights of a block's harmonics: [O, C, Kf, Kt] -> [O, C * harmonics, 1, Kt]."""
    return weight[:, :, block.ks].flatten(1, 2).unsqueeze(2)


def pieces(x: Tensor, weight: Tensor, plan: Plan, frames: int) -> tuple[int, list[Block]]:
    """Batch items at once, and blocks of rows, from the work of one row of one harmonic."""
    row_bytes = x.shape[1] * x.shape[3] * x.element_size()
    size_out = len(x) * len(weight) * plan.rows_out * frames
    budget = Budget.on(x.device, (x.numel() + size_out) * x.element_size())
    return plan.pieces(len(x), frames * weight.numel() // plan.harmonics, row_bytes, budget)


class _HarmonicConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, time: Time) -> Tensor:
        frames = time.frames(x.shape[3], weight.shape[3])
        at_once, blocks = pieces(x, weight, plan, frames)
        if len(blocks) == 1 and len(x) == at_once and blocks[0].n_ks:  # one piece is the whole result
            return time.conv(gather(x, blocks[0]), kernel_of(weight, blocks[0]), bias)
        y = x.new_empty(len(x), len(weight), plan.rows_out, frames)
        for block in blocks:
            kernel = kernel_of(weight, block)
            for i in range(0, len(x), at_once):
                part: Tensor | float = 0.0 if bias is None else bias[:, None, None]
                if block.n_ks:
                    part = time.conv(gather(x[i : i + at_once], block), kernel, bias)
                y[i : i + at_once, :, block.first : block.last] = part
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.plan, ctx.time = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        plan, time = ctx.plan, ctx.time
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        gb = gy.sum((0, 2, 3)) if need_b else None
        if torch.is_grad_enabled():  # a second derivative is wanted
            wanted = [v for v, need in ((x, need_x), (weight, need_w)) if need]
            y = plain(x, weight, None, plan.pair, plan.share, time)
            found = iter(torch.autograd.grad(y, wanted, gy, create_graph=True) if wanted else ())
            return next(found) if need_x else None, next(found) if need_w else None, gb, None, None
        gx = torch.zeros_like(x) if need_x else None
        gw = torch.zeros_like(weight) if need_w else None
        at_once, blocks = pieces(x, weight, plan, gy.shape[3])
        for block in blocks:
            if not block.n_ks or not (need_x or need_w):
                continue
            kernel = kernel_of(weight, block)
            for i in range(0, len(x), at_once):
                low = gather(x[i : i + at_once], block)
                g_low, g_kernel, _ = torch.ops.aten.convolution_backward(
                    gy[i : i + at_once, :, block.first : block.last],
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
                    part = gx[i : i + at_once, :, block.x_first : block.x_last]
                    planes = low.shape[0] * x.shape[1]
                    part += block.adjoint(g_low.reshape(-1, x.shape[3]), planes).view(part.shape)
        return gx, gw, gb, None, None


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, pair: Tensor, share: Tensor, time: Time) -> Tensor:
    """The same operation in differentiable torch operations, one harmonic after the other.

    Shape: pair, share [2, Kf, G] as from `interpolation`.
    """
    pair, share = pair.to(x.device), share.to(x.dtype).to(x.device).unsqueeze(-1)
    y: Tensor | None = None
    for k in range(weight.shape[2]):
        rows = x.index_select(2, pair[0, k]) * share[0, k] + x.index_select(2, pair[1, k]) * share[1, k]
        part = time.conv(rows, weight[:, :, k : k + 1], bias if k == 0 else None)
        y = part if y is None else y + part
    assert y is not None  # a kernel has at least one row
    return y


def harmonic_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positions: np.ndarray | Tensor | Plan,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Harmonic convolution at given positions; stride, padding and dilation are those of time.

    Positions are fractional rows, read by linear interpolation; outside [0, F - 1] there is nothing, so zero. Gradients
    with respect to x, weight and bias are exact and deterministic.

    Shape: x [B, C, F, T], weight [O, C / groups, Kf, Kt], bias [O] or None, positions [Kf, G] on the host (or a plan
        made of them, which saves looking it up) -> [B, O, G, T'], T' as for conv1d.

    Raises:
        ValueError: x or weight do not go with the positions.
    """
    time, device = Time(stride, padding, dilation, groups), x.device.type
    if torch.compiler.is_compiling() and isinstance(positions, Tensor):  # a plan cannot be traced, and need not be
        return plain(x, weight, bias, *interpolation(positions, x.shape[2]), time)
    plan = positions if isinstance(positions, Plan) else plan_for(positions, x.shape[2])
    if x.shape[2] != plan.rows or weight.shape[2] != plan.harmonics:
        raise ValueError(
            f"expected an input of {plan.rows} rows and a kernel of {plan.harmonics} harmonics, as the positions have, "
            f"got {x.shape[2]} and {weight.shape[2]}"
        )
    if torch.compiler.is_compiling() or device not in ("cpu", "cuda"):
        return plain(x, weight, bias, plan.pair, plan.share, time)
    if torch.is_autocast_enabled(device):  # cast as nn.Conv2d is; inside, all is of one type
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        x = x.contiguous()
        if not (torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (x, weight, bias))):
            return _HarmonicConv.forward(x, weight, bias, plan, time)  # as `apply` does, 0.1 to 0.4 ms sooner
        y: Tensor = _HarmonicConv.apply(x, weight, bias, plan, time)  # type: ignore[no-untyped-call]
        return y
