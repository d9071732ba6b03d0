"""Harmonic convolution in Triton kernels, which interpolate rows while they multiply: no lowered copy exists.

Each row has a list of its reads. Forward, row f of the output sums over the input rows that its harmonics read. The
gradient of the input uses the same kernel with inverted lists: row r of the input sums over the output rows that read
it. An entry is a pair of rows with their weights, since interpolation reads two rows. Every sum has a fixed order, so
results are deterministic.

The kernels multiply with the precision that nn.Conv2d would, torch.backends.cudnn.conv.fp32_precision, and add in
float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from hlfeat.nn.harmonic import triton_kernels as kernels
from hlfeat.nn.harmonic.plan import Plan, Time

LAYOUT = torch.channels_last  # of inputs and their gradients
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
    """The reads of the three kernels by destination; their place is the harmonic, for `harmonics` the output row."""

    forward: Reads  # output row: rows of the input
    back: Reads  # row of the input: output rows
    harmonics: Reads  # harmonic: rows of the input


def lists(plan: Plan, device: torch.device) -> Lists:
    """The lists of a plan, which keeps them."""
    if device not in plan.backend_data:
        weights = plan.lerp_weights.numpy()  # [2, harmonics, rows out]
        side, harmonic, out = np.nonzero(weights > 0)
        row, row_weight = plan.lerp_rows.numpy()[side, harmonic, out], weights[side, harmonic, out]
        plan.backend_data[device] = Lists(
            Reads.of(out, harmonic, row, row_weight, plan.rows_out).on(device),
            Reads.of(row, harmonic, out, row_weight, plan.rows).on(device),
            Reads.of(harmonic, out, row, row_weight, plan.harmonics).on(device),
        )
    made: Lists = plan.backend_data[device]
    return made


class Blocks(NamedTuple):
    """Block sizes of a kernel: at most `t` frames, `k` products (tap, channel) and `o` output channels in one program.

    `warps` and `stages` are Triton's: warps of a program, and loads in flight.
    """

    t: int
    k: int
    o: int
    warps: int
    stages: int

    def of(self, frames: int, products: int, channels: int) -> dict[str, int]:
        """The kernel's arguments for tensors of these sizes: powers of two of at least 16, as tensor cores need."""
        sizes = {"BLOCK_T": (self.t, frames), "BLOCK_K": (self.k, products), "BLOCK_O": (self.o, channels)}
        blocks = {name: min(most, max(16, triton.next_power_of_2(n))) for name, (most, n) in sizes.items()}
        return {**blocks, "num_warps": self.warps, "num_stages": self.stages}


# Chosen by the machine code (16-byte copies, tensor cores, no spilled registers), not by measurements.
CONVOLVE = Blocks(t=128, k=16, o=64, warps=4, stages=3)
CORRELATE = Blocks(t=32, k=64, o=64, warps=4, stages=3)


def needs(x: Tensor, weight: Tensor, plan: Plan, time: Time) -> str | None:
    """The first requirement of the kernels that is not met, or None."""
    if x.device.type != "cuda" and not triton.knobs.runtime.interpret:
        return f"a CUDA device, got {x.device.type}"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return "a GPU of compute capability 8.0 or newer"
    if x.dtype not in DTYPES or weight.dtype != x.dtype:
        return f"float32, float16 or bfloat16 for both input and weight, got {x.dtype} and {weight.dtype}"
    size_out = len(weight) * plan.rows_out * time.frames(x.shape[3], weight.shape[3])
    if max(x.shape[1:].numel(), size_out) >= 2**31:
        return "less than 2**31 values for each batch item"
    return None


def _precision(x: Tensor) -> str:
    asked: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if x.dtype == torch.float32 and asked == "tf32" else "ieee"


def _packed(weight: Tensor, groups: int, turned: bool) -> Tensor:
    """The weight as a matrix for each group and harmonic.

    Shape: [O, C, Kf, Kt] -> [groups, Kf, O / groups, Kt * C], turned [groups, Kf, C, Kt * O / groups].
    """
    w = weight.reshape(groups, -1, *weight.shape[1:])  # [groups, O, C, Kf, Kt]
    return w.permute((0, 3, 2, 4, 1) if turned else (0, 3, 1, 4, 2)).flatten(3).contiguous()


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, time: Time) -> Tensor:
    """Y of hlfeat/nn/harmonic/functional.py.

    Shape: as `harmonic_conv2d`; x in LAYOUT.
    """
    y = x.new_empty(len(x), len(weight), plan.rows_out, time.frames(x.shape[3], weight.shape[3]))
    reads = lists(plan, x.device).forward
    return _convolve(x, _packed(weight, time.groups, False), bias, y, reads, weight.shape[3], time)


def gradients(
    x: Tensor, weight: Tensor, gy: Tensor, plan: Plan, time: Time, need_x: bool, need_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and of the weight, as far as they are needed, from that of Y."""
    reads = lists(plan, x.device)
    gx = gw = None
    if need_x:
        gx, turned = torch.empty_like(x), _packed(weight, time.groups, True)
        rows = gy.contiguous(memory_format=LAYOUT)
        _convolve(rows, turned, None, gx, reads.back, weight.shape[3], time, back=True)
    if need_w:
        if not gy.is_contiguous(memory_format=LAYOUT):
            gy = gy.contiguous()  # a gradient may be expanded, and strides be anything
        gw = _correlate(x, weight, gy, reads.harmonics, time)
    return gx, gw


def _convolve(
    x: Tensor, packed: Tensor, bias: Tensor | None, y: Tensor, reads: Reads, taps: int, time: Time, back: bool = False
) -> Tensor:
    """Fill y; `back`: x is the gradient of an output and y that of the input."""
    groups, harmonics, out, _ = packed.shape
    channels, frames = x.shape[1] // groups, y.shape[3]
    blocks = CONVOLVE.of(frames, taps * channels, out)
    tiles = triton.cdiv(frames, blocks["BLOCK_T"]) * triton.cdiv(out, blocks["BLOCK_O"])
    programs = tiles * y.shape[2] * groups * len(x)
    if not programs:
        return y
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernels.convolve[(programs,)](
            x,
            packed,
            None if bias is None else bias.contiguous(),
            y,
            *reads[:4],
            harmonics,
            x.shape[2],
            x.shape[3],
            y.shape[2],
            frames,
            groups,
            *y.stride(),
            CHANNELS=channels,
            OUT=out,
            TAPS=taps,
            STEP=1 if back else time.stride,
            DILATION=-time.dilation if back else time.dilation,
            SHIFT=time.padding if back else -time.padding,
            DIVISOR=time.stride if back else 1,
            PAIRED=reads.paired,
            HAS_BIAS=bias is not None,
            PRECISION=_precision(x),
            **blocks,
        )
    return y


def _correlate(x: Tensor, weight: Tensor, gy: Tensor, reads: Reads, time: Time) -> Tensor:
    """The gradient of the weight."""
    harmonics, taps = weight.shape[2:]
    groups, channels, out = time.groups, weight.shape[1], len(weight) // time.groups
    blocks = CORRELATE.of(gy.shape[3], taps * channels, out)
    tiles = triton.cdiv(taps * channels, blocks["BLOCK_K"]) * triton.cdiv(out, blocks["BLOCK_O"])
    programs = tiles * harmonics * groups
    # as many terms a program as make the programs of all harmonics so many; those of a harmonic with fewer end early
    length = max(1, triton.cdiv(tiles * groups * len(reads.place) * len(x), PROGRAMS))
    parts = max(1, triton.cdiv(reads.most * len(x), length))
    partial = x.new_empty((parts, groups, harmonics, taps, channels, out), dtype=torch.float32)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernels.correlate[(programs * parts,)](
            x,
            gy,
            partial,
            *reads[:4],
            len(x),
            length,
            harmonics,
            x.shape[2],
            x.shape[3],
            gy.shape[3],
            groups,
            *gy.stride(),
            CHANNELS=channels,
            OUT=out,
            TAPS=taps,
            STEP=time.stride,
            DILATION=time.dilation,
            SHIFT=-time.padding,
            PAIRED=reads.paired,
            PRECISION=_precision(x),
            **blocks,
        )
    return partial.sum(0).permute(0, 4, 3, 1, 2).flatten(0, 1).to(weight.dtype)
