"""Gabor filters, energies and their smoothing as a few large matrix products.

A convolution of one channel at stride s is a product of frames with kernels, but a group of ten filters makes a matrix
of twenty columns, too narrow to run fast. So each frame serves p neighbouring outputs:

    frame m is samples m p s - R ... (m p + p - 1) s + R,   z_r(m) = <frame m, h shifted by r s>,   r = 0 ... p - 1

(R = K // 2; that is K + (p - 1) s samples instead of p K). With f* the frame reversed, e = f + f* and o = f - f* over
half the samples, and q_r the kernel of output r split likewise into an even part A_r and an odd part B_r,

    z_r = e A_r + o B_r.

The envelope is even, the real part even, the imaginary part odd: reversing q_r gives q_(p-1-r), up to the sign of the
imaginary part. So the mirrored output takes the same two products, z_(p-1-r) = +-(e A_r - o B_r), and only squares
follow: half of the multiplications are saved, exactly.

Smoothing to the frame rate is one more product. A block of Q = lcm(p, pool stride) outputs reaches J feature frames; it
is multiplied by a [Q n, J n] matrix whose entry is the pooling window's where both filters are the same, and what
neighbouring blocks add to the same frame is summed up. That the matrix is mostly zeros costs less than a strided
depthwise convolution does. Here are the cuts and the matrices; hlfeat/nn/frontends/gemm.py multiplies.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.nn.frontends.taps import Group, Taps

# A row of a matrix product does not depend on the other rows, if there are at least four: for one to three, MKL uses
# other code, which rounds differently. So a chunk has at least this many blocks, and a clip's energies are the same to
# the bit in every batch (measured, and tested in tests/nn/frontends/test_gabor.py).
LEAST_BLOCKS = 4

MOST_OUTPUTS = 64  # of one frame
MOST_FILTERS = 16  # multiplied at once: the smoothing product grows with their square
COLUMNS = 16  # a product takes as long as one with the next multiple of this many columns
FOLD_COST = 42  # multiply-adds that take as long as folding one sample of a frame and reading it into a product


@dataclass(frozen=True)
class Frames:
    """How a group's outputs are cut into frames and blocks: `outputs` (p, even) a frame, `block` (Q) a block."""

    group: Group
    outputs: int

    @property
    def width(self) -> int:
        """Samples of a frame."""
        return self.group.kernel + (self.outputs - 1) * self.group.stride

    @property
    def folded(self) -> int:
        """Samples of a folded frame; the middle one of an odd width counts."""
        return (self.width + 1) // 2

    @property
    def advance(self) -> int:
        """Samples from frame to frame."""
        return self.outputs * self.group.stride

    @property
    def block(self) -> int:
        return math.lcm(self.outputs, self.group.pool_stride)

    @property
    def hops(self) -> int:
        """Feature frames that a block advances by."""
        return self.block // self.group.pool_stride

    @property
    def earliest(self) -> int:
        """First feature frame that a block reaches, from the one that its first output is the centre of."""
        return -(self.group.window // 2 // self.group.pool_stride)

    @property
    def reach(self) -> int:
        """Feature frames that a block reaches (J)."""
        return (self.block - 1 + self.group.window // 2) // self.group.pool_stride - self.earliest + 1


def blocks_of(frames: Frames, samples: int) -> int:
    """Blocks that hold all outputs of a clip."""
    return max(LEAST_BLOCKS, (samples - 1) // frames.group.stride // frames.block + 1)


def best_frames(group: Group) -> Frames:
    """The outputs a frame that take the least estimated work: few make narrow products, many waste multiplications."""
    n = filters_at_once(group.stop - group.start)

    def columns(count: int) -> int:
        return -(-count // COLUMNS) * COLUMNS

    def work(frames: Frames) -> float:  # of one output
        p = frames.outputs
        return frames.width * (columns(p * n) + FOLD_COST) / p + n * columns(frames.reach * n)

    return min((Frames(group, p) for p in range(2, MOST_OUTPUTS + 1)), key=work)


def filters_at_once(n: int) -> int:
    """`n` filters divided evenly into parts of at most MOST_FILTERS: the size of the largest."""
    return -(-n // -(-n // MOST_FILTERS))


@dataclass(frozen=True)
class Part:
    """Matrices of some of a group's filters (n of them).

    Of p outputs a frame, p // 2 have a mirror image; if p is odd, the one in the middle is its own.

    Shape:
        - even, odd: [folded, p n], columns (real and imaginary, output with a mirror image, filter); last the middle
          output's real (even) or imaginary (odd) parts
        - pools: for outputs 0 ... p // 2 - 1 of each frame of a block, for their mirror images, and for the middle one:
          [outputs of a block of this kind * n, reach * n]
    """

    n: int
    even: Tensor
    odd: Tensor
    pools: list[Tensor]


@dataclass(frozen=True)
class GroupFilters:
    """A group's cut into frames, and its matrices."""

    frames: Frames
    parts: list[Part]


def group_filters(taps: Taps) -> GroupFilters:
    """Matrices of a group's taps, differentiable."""
    frames, n = best_frames(taps.group), filters_at_once(taps.pool.shape[0])
    return GroupFilters(
        frames,
        [
            Part(w.shape[0], *fold_kernels(frames, h), pool_matrices(frames, w))
            for h, w in zip(torch.split(taps.gabor, n, 1), torch.split(taps.pool, n), strict=True)
        ],
    )


def padded_columns(matrix: Tensor) -> Tensor:
    """Zero columns up to the next multiple of COLUMNS: without them the product would take up to twice as long."""
    return F.pad(matrix, (0, -matrix.shape[1] % COLUMNS)).contiguous()


def fold_kernels(frames: Frames, gabor: Tensor) -> tuple[Tensor, Tensor]:
    """Even and odd parts of the kernels of a frame's first outputs: gabor [2, n, K] -> 2 x [folded, p n]."""
    group, pairs = frames.group, frames.outputs // 2
    first = -(-frames.outputs // 2)  # outputs with a mirror image, and the middle one
    padded = F.pad(gabor, ((first - 1) * group.stride, frames.width - group.kernel))
    # a window that starts r strides further left shows the kernel r strides further right
    shifted = padded.unfold(-1, frames.width, group.stride)[:, :, :first].flip(2)  # [2, n, first, width]
    head, tail = shifted[..., : frames.folded], shifted.flip(-1)[..., : frames.folded]
    factor = torch.full((frames.folded,), 0.5, dtype=gabor.dtype, device=gabor.device)
    if frames.width % 2:
        factor[-1] = 0.25  # the middle sample is added to itself

    def columns(x: Tensor, middle: int) -> Tensor:
        x = x.permute(3, 0, 2, 1)  # [folded, 2, first, n]
        return padded_columns(torch.cat([x[:, :, :pairs].flatten(1), x[:, middle, pairs:].flatten(1)], 1))

    return columns((head + tail) * factor, 0), columns((head - tail) * factor, 1)


def pool_matrices(frames: Frames, pool: Tensor) -> list[Tensor]:
    """What the outputs of a block add to the feature frames in reach.

    Shape: pool [n, W] -> [outputs of a block of one kind * n, reach * n] each.
    """
    n = pool.shape[0]
    padded = F.pad(pool, (0, 1))  # [n, W + 1]: the last entry is zero
    matrices = []
    for taps in pool_taps(frames):
        entries = padded[:, taps.to(pool.device)]  # [n, outputs, reach]
        diagonal = torch.diag_embed(entries.permute(1, 2, 0))  # [outputs, reach, n, n]
        matrices.append(padded_columns(diagonal.transpose(1, 2).reshape(-1, frames.reach * n)))
    return matrices


def kinds(frames: Frames, device: torch.device | None = None) -> list[Tensor]:
    """Outputs of a frame that have a mirror image, their mirror images, and the middle one if there is one."""
    p = frames.outputs
    pairs, middle = torch.arange(p // 2, device=device), torch.arange(p // 2, p - p // 2, device=device)
    return [pairs, p - 1 - pairs, middle][: 2 + p % 2]


@functools.lru_cache(maxsize=256)
def pool_taps(frames: Frames) -> list[Tensor]:
    """Tap of the pooling window that each output meets in each feature frame, or W where it meets none.

    Shape: -> int64 [outputs of a block of one kind, reach] each.
    """
    group = frames.group
    feature = (torch.arange(frames.reach) + frames.earliest) * group.pool_stride  # its centre, in outputs
    first = torch.arange(0, frames.block, frames.outputs)[:, None]
    taps = []
    for r in kinds(frames):
        tap = (first + r).flatten()[:, None] - feature + group.window // 2
        taps.append(tap.where((tap >= 0) & (tap < group.window), group.window))
    return taps
