"""Harmonic convolution as one operation of compiled programs: torch.ops.hlfeat.harmonic_conv2d.

torch.compile sees through `plain`, the operation in ordinary torch operations: a convolution and two gathers for each
harmonic, whose derivatives scatter. What it makes of them takes longer than the backends do, and long to compile. So a
compiled program calls the backends, and compiles what is around: one operation with its gradients, whose bias gradient
is open to fusion.

`plain` still is what torch.export, torch.func within a compiled program and other devices than CPU and CUDA get.

This module is imported once something is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfeat.nn._private_torch import exporting, transformed
from hlfeat.nn.harmonic import functional
from hlfeat.nn.harmonic.plan import Plan, Time, linear_interpolation
from hlfeat.nn.harmonic.table import Table

DEVICES = ("cpu", "cuda")
# Plans make tables on a device when they are first used, and the kernels try block sizes: nothing for a CUDA graph.
TAGS = (torch.Tag.cudagraph_unsafe,)


def opaque(x: Tensor) -> bool:
    """Whether a program that is being compiled may call the operation."""
    return x.device.type in DEVICES and not exporting() and not transformed()


def traced_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positions: np.ndarray | Tensor | tuple[Tensor, Tensor] | Table,
    time: Time,
    fused: bool | None,
) -> Tensor:
    """`harmonic_conv2d` as torch.compile and torch.export see it."""
    if not isinstance(positions, tuple | Table):
        table = Table.of_positions(positions)
        positions = table if opaque(x) else linear_interpolation(table.numbers, x.shape[2])
    if isinstance(positions, tuple):
        return functional.plain(x, weight, bias, *positions, time)
    device, wanted = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):  # cast as nn.Conv2d is
        wanted = torch.get_autocast_dtype(device)
        dtype = _computed_in(wanted, x.device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    axis = positions.numbers, positions.kind, positions.anchor, positions.stride
    return _conv(x, weight, bias, *axis, time, fused).to(wanted)  # type: ignore[no-any-return]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _computed_in(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    return functional.computed_in(dtype, device)


@torch.library.custom_op("hlfeat::harmonic_conv2d", mutates_args=(), device_types=DEVICES, tags=TAGS)
def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    numbers: Tensor,
    kind: str,
    anchor: int,
    row_stride: int,
    time: Sequence[int],
    fused: bool | None,
) -> Tensor:
    plan, stride, padding, dilation, groups = _plan(x, weight, numbers, kind, anchor, row_stride), *time
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # the caller has cast
        y = functional.harmonic_conv2d(
            x, weight, bias, plan, stride=stride, padding=padding, dilation=dilation, groups=groups, fused=fused
        )
    return y.contiguous()


@torch.library.custom_op("hlfeat::harmonic_conv2d_backward", mutates_args=(), device_types=DEVICES, tags=TAGS)
def _conv_backward(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    numbers: Tensor,
    kind: str,
    anchor: int,
    row_stride: int,
    time: Sequence[int],
    fused: bool | None,
    need_x: bool,
    need_w: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the weight; one that is not needed is empty."""
    plan, times = _plan(x, weight, numbers, kind, anchor, row_stride), Time(*time)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        backend = functional.backend_for(x, weight, plan, times, fused)
        gx, gw = backend.gradients(backend.prepared(x), weight, gy, plan, times, need_x, need_w)
    return x.new_empty(0) if gx is None else gx.contiguous(), x.new_empty(0) if gw is None else gw.contiguous()


def _plan(x: Tensor, weight: Tensor, numbers: Tensor, kind: str, anchor: int, row_stride: int) -> Plan:
    return Table(kind, numbers.cpu(), anchor, row_stride).plan(x.shape[2], weight.shape[2])


@_conv.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    numbers: Tensor,
    kind: str,
    anchor: int,
    row_stride: int,
    time: Sequence[int],
    fused: bool | None,
) -> Tensor:
    times = Time(*time)
    functional.check(x, weight, bias, times)
    rows = Table(kind, numbers, anchor, row_stride).rows_out(x.shape[2])
    return x.new_empty(x.shape[0], weight.shape[0], rows, times.frames(x.shape[3], weight.shape[3]))


@_conv_backward.register_fake
def _(gy: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, need_x, need_w = rest
    return x.new_empty(x.shape if need_x else 0), weight.new_empty(weight.shape if need_w else 0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, numbers, *ctx.rest = inputs
    ctx.save_for_backward(x, weight, numbers)


def _gradients(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, numbers = ctx.saved_tensors
    need_x, need_w, need_b = ctx.needs_input_grad[:3]
    gb = gy.sum((0, 2, 3)) if need_b else None
    if torch.is_grad_enabled():  # a second derivative is wanted, as only backend="eager" can
        *axis, time, _ = ctx.rest
        plan = _plan(x, weight, numbers, *axis)
        gx, gw = functional.differentiable_gradients(x, weight, gy, plan, Time(*time), need_x, need_w)
    else:
        gx, gw = _conv_backward(gy, x, weight, numbers, *ctx.rest, need_x, need_w)
    return gx if need_x else None, gw if need_w else None, gb, *[None] * 6


_conv.register_autograd(_gradients, setup_context=_setup_context)
