"""Harmonic convolution in Triton kernels, which interpolate rows while they multiply: no lowered copy exists.

Each row has a list of its reads. Forward, row f of the output sums over the input rows that its harmonics read. The
gradient of the input uses the same kernel with inverted lists: row r of the input sums over the output rows that read
it. An entry is a pair of rows with their weights, since interpolation reads two rows.

The kernels multiply with the precision that nn.Conv2d would, torch.backends.cudnn.conv.fp32_precision, and add in
float32. Full float32 is three products of TF32, whose errors are of the size of float32's own. Every sum has a fixed
order, so results and gradients are the same to the bit every time; in another process only if the same block sizes are
used there (hlfeat/nn/harmonic/blocks.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from hlfeat.nn.gpu_kernels import OLDEST, capability
from hlfeat.nn.harmonic import triton_kernels as kernels
from hlfeat.nn.harmonic.blocks import Blocks, Problem, chosen
from hlfeat.nn.harmonic.plan import Plan, Time
from hlfeat.precision import tf32_convolutions

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PROGRAMS = 512  # the weight's gradient is summed in parts, so that so many programs run: four a core of a large GPU


def _tensor(values: np.ndarray, dtype: type) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype))


class Reads(NamedTuple):
    """For each destination i, the entries start[i] : start[i + 1], each of one place and two rows with their weights.

    Shape: start [destinations + 1], place [entries], row, row_weight [entries, 2].

    Attributes:
        most: entries of one destination; paired: some entry has two rows.
    """

    start: Tensor
    place: Tensor
    row: Tensor
    row_weight: Tensor
    most: int
    paired: bool

    @staticmethod
    def of(to: np.ndarray, place: np.ndarray, row: np.ndarray, row_weight: np.ndarray, n_to: int) -> Reads:
        """From single reads in any order; those of one destination and place are joined two by two, by row."""
        order = np.lexsort((row, place, to))
        to, place, row, row_weight = to[order], place[order], row[order], row_weight[order]
        new = np.ones(len(to), bool)
        new[1:] = (to[1:] != to[:-1]) | (place[1:] != place[:-1])
        at = np.arange(len(to))
        rank = at - np.maximum.accumulate(np.where(new, at, 0))  # within its destination and place
        first = np.flatnonzero(rank % 2 == 0)
        second = np.minimum(first + 1, max(len(to) - 1, 0))
        lone = (second == first) | (rank[second] % 2 == 0)
        rows = np.stack([row[first], np.where(lone, row[first], row[second])], 1)
        row_weights = np.stack([row_weight[first], np.where(lone, 0.0, row_weight[second])], 1)
        count = np.bincount(to[first], minlength=n_to)
        start = np.concatenate([[0], np.cumsum(count)])
        return Reads(
            _tensor(start, np.int32),
            _tensor(place[first], np.int32),
            _tensor(rows, np.int32),
            _tensor(row_weights, np.float32),
            int(count.max()),
            not lone.all(),
        )

    def on(self, device: torch.device) -> Reads:
        return self._replace(**{name: getattr(self, name).to(device) for name in self._fields[:4]})


class Lists(NamedTuple):
    """The reads of the kernels. For both convolutions by destination, their place is the harmonic.

    Attributes:
        forward: of a row of the output, rows of the input; back: of a row of the input, rows of the output.
        row, row_weight: the two rows of each position, and their weights, [harmonics, rows out, 2]. A row of weight
            zero is the other one again.
    """

    forward: Reads
    back: Reads
    row: Tensor
    row_weight: Tensor


def lists(plan: Plan, device: torch.device) -> Lists:
    """The lists of a plan, which keeps them."""
    if device not in plan.backend_data:
        weights = plan.lerp_weights.numpy()  # [2, harmonics, rows out]
        side, harmonic, out = np.nonzero(weights > 0)
        row, row_weight = plan.lerp_rows.numpy()[side, harmonic, out], weights[side, harmonic, out]
        low, high = plan.lerp_rows.numpy()
        rows = np.stack([low, np.where(weights[1] > 0, high, low)], -1)
        plan.backend_data[device] = Lists(
            Reads.of(out, harmonic, row, row_weight, plan.rows_out).on(device),
            Reads.of(row, harmonic, out, row_weight, plan.rows).on(device),
            _tensor(rows, np.int32).to(device),
            _tensor(weights.transpose(1, 2, 0), np.float32).to(device),
        )
    made: Lists = plan.backend_data[device]
    return made


class Used(NamedTuple):
    """Output rows in which one of some harmonics reads something: for harmonics from `together` i, entries start[i] :
    start[i + 1]; and the most of them."""

    start: Tensor
    out_row: Tensor
    most: int


def used(plan: Plan, together: int, device: torch.device) -> Used:
    """Rows that so many harmonics at a time use; the plan keeps them."""
    key = ("used", together, device)
    if key not in plan.backend_data:
        rows = [np.flatnonzero(plan.active[i : i + together].any(0)) for i in range(0, plan.harmonics, together)]
        count = [len(r) for r in rows]
        plan.backend_data[key] = Used(
            _tensor(np.cumsum([0, *count]), np.int32).to(device),
            _tensor(np.concatenate(rows), np.int32).to(device),
            max(count),
        )
    made: Used = plan.backend_data[key]
    return made


def prepared(x: Tensor) -> Tensor:
    """The tensor as the kernels read it: contiguous, or channels-last."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def needs(x: Tensor, weight: Tensor, plan: Plan, time: Time) -> str | None:
    """The first requirement of the kernels that is not met, or None."""
    if x.device.type != "cuda" and not triton.knobs.runtime.interpret:
        return f"a CUDA device, got {x.device.type}"
    if _capability(x.device) < OLDEST:
        return "a GPU of compute capability 8.0 or newer"
    if x.dtype not in DTYPES or weight.dtype != x.dtype:
        return f"float32, float16 or bfloat16 for both input and weight, got {x.dtype} and {weight.dtype}"
    size_out = len(weight) * plan.rows_out * time.frames(x.shape[3], weight.shape[3])
    if max(x.shape[1:].numel(), size_out) >= 2**31:
        return "less than 2**31 values for each batch item"
    return None


def _capability(device: torch.device) -> int:
    """Compute capability, such as 90; that of the newest GPUs in the interpreter."""
    return capability(device) if device.type == "cuda" else 90


def _precision(x: Tensor) -> str:
    if x.dtype != torch.float32:
        return "ieee"
    return "tf32" if tf32_convolutions() else "tf32x3"


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, time: Time) -> Tensor:
    """Y of hlfeat/nn/harmonic/functional.py.

    Shape: as `harmonic_conv2d`; x as from `prepared`.
    """
    y = x.new_empty(len(x), len(weight), plan.rows_out, time.frames(x.shape[3], weight.shape[3]))
    _convolve(x, weight, bias, y, lists(plan, x.device).forward, time)
    return y


def gradients(
    x: Tensor, weight: Tensor, gy: Tensor, plan: Plan, time: Time, need_x: bool, need_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and of the weight, as far as they are needed, from that of Y."""
    gx = gw = None
    gy = prepared(gy)
    if need_x:
        gx = torch.empty_like(x)
        _convolve(gy, weight, None, gx, lists(plan, x.device).back, time, back=True)
    if need_w:
        gw = _correlate(x, weight, gy, plan, time)
    return gx, gw


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, reads: Reads, time: Time, back: bool = False
) -> None:
    """Fill y; `back`: x is the gradient of an output and y that of the input."""
    if not y.numel():
        return
    groups, (harmonics, taps) = time.groups, weight.shape[2:]
    channels, out, frames = x.shape[1] // groups, y.shape[1] // groups, y.shape[3]
    w = weight.reshape(groups, -1, *weight.shape[1:])  # [groups, O, C, Kf, Kt]
    w = w.transpose(1, 2) if back else w  # [groups, out, channels, Kf, Kt], whichever way
    dilation, shift = (-time.dilation, time.padding) if back else (time.dilation, -time.padding)
    sizes = len(x), y.shape[2], frames, channels, out, taps, dilation, shift
    problem = Problem(*sizes, x.dtype, _precision(x), _capability(x.device))
    arguments = (reads.start, reads.place, reads.row, reads.row_weight, harmonics, x.shape[3], y.shape[2], frames)
    tensors = None if bias is None else bias.contiguous(), y
    constants = {"CHANNELS": channels, "OUT": out, "TAPS": taps, "DILATION": dilation, "SHIFT": shift,
                 "PAIRED": reads.paired, "HAS_BIAS": bias is not None, "PRECISION": problem.precision}  # fmt: skip

    def columns(blocks: Blocks) -> None:
        programs = triton.cdiv(frames, problem.tile(blocks)) * triton.cdiv(out, blocks.o) * y.shape[2] * groups * len(x)
        kernels.columns[(programs,)](
            x, packed, *tensors, *arguments, groups, *x.stride(), *y.stride(), **constants,
            FRAMES=problem.tile(blocks), FIRST=problem.first, EARLY=problem.early(),
            **blocks.arguments(),
        )  # fmt: skip

    def convolve(blocks: Blocks) -> None:
        programs = triton.cdiv(frames, blocks.t) * triton.cdiv(out, blocks.o) * y.shape[2] * groups * len(x)
        kernels.convolve[(programs,)](
            x, packed, *tensors, *arguments, groups, *x.stride(), *y.stride(), **constants,
            STEP=1 if back else time.stride, DIVISOR=time.stride if back else 1, **blocks.arguments(),
        )  # fmt: skip

    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        if time.stride == 1 and problem.fits_columns():
            packed = w.permute(0, 3, 4, 1, 2).contiguous()  # [groups, Kf, Kt, out, channels]
            columns(chosen("columns", problem, x.device, columns))
        else:
            packed = w.permute(0, 3, 1, 4, 2).contiguous()  # [groups, Kf, out, Kt, channels]
            convolve(chosen("convolve", problem, x.device, convolve))


def _correlate(x: Tensor, weight: Tensor, gy: Tensor, plan: Plan, time: Time) -> Tensor:
    """The gradient of the weight."""
    harmonics, taps = weight.shape[2:]
    groups, channels, out = time.groups, weight.shape[1], len(weight) // time.groups
    reads = lists(plan, x.device)
    sizes = len(x), plan.rows_out, x.shape[3], channels, out, taps, time.dilation, -time.padding
    problem = Problem(*sizes, x.dtype, _precision(x), _capability(x.device))

    def correlate(blocks: Blocks) -> Tensor:
        together = max(1, min(harmonics, blocks.k // channels))
        rows = used(plan, together, x.device)
        tiles = triton.cdiv(taps * out, blocks.o) * triton.cdiv(together * channels, blocks.k)
        programs = tiles * triton.cdiv(harmonics, together) * groups
        # as many terms a program as make the programs so many; those of harmonics with fewer terms end early
        length = max(1, triton.cdiv(tiles * groups * len(rows.out_row) * len(x), PROGRAMS))
        parts = max(1, triton.cdiv(rows.most * len(x), length))
        partial = x.new_empty((parts, groups, harmonics, channels, taps, out), dtype=torch.float32)
        kernels.correlate[(programs * parts,)](
            x, gy, partial, rows.start, rows.out_row, reads.row, reads.row_weight,
            len(x), length, harmonics, x.shape[3], plan.rows_out, gy.shape[3], groups, *x.stride(), *gy.stride(),
            CHANNELS=channels, OUT=out, TAPS=taps, TOGETHER=together,
            STEP=time.stride, DILATION=time.dilation, SHIFT=-time.padding,
            PAIRED=reads.forward.paired, PRECISION=problem.precision, **blocks.arguments(),
        )  # fmt: skip
        return partial

    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        partial = correlate(chosen("correlate", problem, x.device, correlate))
        return partial.sum(0).permute(0, 4, 2, 1, 3).flatten(0, 1).to(weight.dtype)
