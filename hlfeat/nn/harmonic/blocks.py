"""Block sizes of the Triton kernels: a default that follows from the sizes, or the fastest of a few.

The default is chosen by the machine code (tests/nn/harmonic/test_machine_code.py), not by measurements. With
torch.backends.cudnn.benchmark, as cuDNN does with its algorithms, a handful of others are tried at the first call of
each problem, whose sizes are rounded to powers of two. Block sizes decide the order of sums, so for one problem they
stay the same as long as the process lives; with torch.backends.cudnn.deterministic they are always the default.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton

RUNS = 5  # of each choice, whose median counts; one more before them compiles the kernel


class Blocks(NamedTuple):
    """Block sizes of a kernel, powers of two from 16 as tensor cores need; their meanings are in its docstring.

    `warps` and `stages` are Triton's: warps of a program, and loads in flight. With one stage, loads go through the L1
    cache and are read again from there; with more, through shared memory.
    """

    t: int
    k: int
    o: int
    warps: int = 4
    stages: int = 1

    def arguments(self) -> dict[str, int]:
        return {
            "BLOCK_T": self.t,
            "BLOCK_K": self.k,
            "BLOCK_O": self.o,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


def power(n: int, most: int) -> int:
    """The power of two that holds n, between 16 and `most`."""
    return int(min(most, max(16, triton.next_power_of_2(n))))


@dataclass(frozen=True)
class Problem:
    """Sizes of a call of a kernel, as it sees them: `channels` are summed over and `out` are made, both of a group.

    `precision` is how float32 is multiplied: "tf32", or "tf32x3", which is full float32; else "ieee". `capability` is
    the GPU's, such as 90.
    """

    batch: int
    rows: int
    frames: int
    channels: int
    out: int
    taps: int
    dilation: int
    shift: int
    dtype: torch.dtype
    precision: str
    capability: int = 90

    @property
    def first(self) -> int:
        """The first frame of the input that `columns` reads, before a tile's first frame; rounded to 16 bytes."""
        return (self.shift + min(0, self.dilation * (self.taps - 1))) // 4 * 4

    def tile(self, blocks: Blocks) -> int:
        """Frames of the output that a program of `columns` makes."""
        span = self.shift + max(0, self.dilation * (self.taps - 1)) - self.first
        return (blocks.t - span) // 4 * 4

    def fits_columns(self) -> bool:
        """Whether `columns` wastes little: half of the channels of a product, a quarter of the frames."""
        blocks = default("columns", self)
        return self.channels >= 8 and self.taps <= 16 and self.tile(blocks) * 4 >= blocks.t * 3

    def early(self) -> bool:
        """Whether `columns` loads the weights of all taps first; with TF32 on older GPUs it would spill registers."""
        return self.precision == "ieee" or self.capability >= 90

    def key(self) -> tuple[object, ...]:
        """What decides which blocks are fastest: sizes that vary from call to call only by their power of two."""
        sizes = tuple(triton.next_power_of_2(max(1, n)) for n in (self.batch, self.rows, self.frames))
        return (*sizes, self.channels, self.out, self.taps, self.dilation, self.dtype, self.precision)


def default(kernel: str, problem: Problem) -> Blocks:
    """Blocks whose machine code spills no registers and leaves room for two programs on a multiprocessor."""
    p = problem
    newer = p.capability >= 90  # tensor cores that read from shared memory; older ones take registers
    thrice = p.precision == "tf32x3"  # three products, whose sum is in registers beside the total
    if kernel == "columns":  # 128 registers of each thread hold the sums of all taps, or 64
        o = power(p.out, 16 if thrice else max(16, 256 // int(triton.next_power_of_2(p.taps))))
        return Blocks(128 if p.taps * o <= (64 if thrice else 128) else 64, 16, o)
    if kernel == "convolve":
        few = thrice and not newer
        return Blocks(power(p.frames, 32 if few else 128), 16, power(p.out, 64), warps=2 if few else 4)
    k = power(p.channels * 4, 64 if newer or not thrice else 32)
    return Blocks(64 if newer and not thrice else 32, k, power(p.taps * p.out, 128 if k > 16 and not thrice else 64))


def choices(kernel: str, problem: Problem) -> list[Blocks]:
    """The default, and what else may be faster."""
    d = default(kernel, problem)
    if kernel == "columns":
        others = [d._replace(t=64), d._replace(t=128, o=max(16, d.o // 2)), d._replace(t=128, warps=8)]
    elif kernel == "convolve":
        others = [d._replace(t=64), d._replace(warps=8), d._replace(k=32), d._replace(stages=3)]
    else:
        others = [
            d._replace(k=max(16, d.k // 2)),
            d._replace(t=32 if d.t == 64 else 64),
            d._replace(o=power(problem.taps * problem.out, 64)),
        ]
    return list(dict.fromkeys([d, *others]))


_chosen: dict[tuple[object, ...], Blocks] = {}


def measuring(device: torch.device) -> bool:
    """Whether choices may be tried: asked for, and not while a CUDA graph is recorded."""
    asked = torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
    return asked and device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def chosen(kernel: str, problem: Problem, device: torch.device, call: Callable[[Blocks], object]) -> Blocks:
    """The blocks of this problem, the same in every call of this process."""
    key = (kernel, device, problem.key())
    if key not in _chosen:
        fastest = default(kernel, problem)
        if measuring(device):
            fastest = min(choices(kernel, problem), key=lambda blocks: seconds(call, blocks))
        _chosen.setdefault(key, fastest)
    return _chosen[key]


def seconds(call: Callable[[Blocks], object], blocks: Blocks) -> float:
    """The median time that a choice takes on the device; infinite, if it does not fit there."""
    try:
        call(blocks)
    except triton.runtime.OutOfResources:
        return float("inf")
    taken = []
    for _ in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        call(blocks)
        end.record()
        end.synchronize()
        taken.append(float(begin.elapsed_time(end)) / 1000)
    return statistics.median(taken)
