"""Plan: the rows that a harmonic convolution reads, and the blocks of its work; made once for given positions.

Interpolation acts on rows only and the kernel's time direction on columns only. So for any block of output rows, with A
the harmonics that read something there,

    L[c, k, f, :] = (1 - w) X[c, floor p, :] + w X[c, floor p + 1, :]      k in A      (gather)
    Y[o, f, :]    = bias[o] + conv1d(L[(c, k), f, :], W[o, (c, k), :])                 (convolve)

The first line is a product with a sparse matrix of at most two entries a row; entries of weight zero are not stored, so
that a whole position is a copy and one outside the axis gives zero. Blocks end where A changes, if the multiplications
saved pay for one more block: rows that a harmonic does not reach are then not computed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.nn._private_torch import without_functorch

SNAP = 1e-9  # a position this close to a whole row is that row (rounding in f * k / n and in logarithms)
CHUNK_BYTES = 8 << 20  # gathered rows of one chunk: they stay in cache, and the allocator reuses their pages
CPU_BLOCK_COST = 14_000_000  # multiply-adds that one more block is worth: oneDNN takes 0.15 ms to set up
# The same on a GPU: an estimate (three launches of 10 us at 20 T multiply-adds a second), not measured.
DEVICE_BLOCK_COST = 600_000_000


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


@dataclass(frozen=True)
class Budget:
    """What decides how work is cut: bytes gathered at once, and multiply-adds that one more block is worth."""

    chunk_bytes: int
    block_cost: int

    @staticmethod
    def on(device: torch.device, bytes_in_and_out: int) -> Budget:
        """Chunks that take no more memory than input and output; on the CPU they stay in cache, elsewhere they are few.

        On the CPU a chunk takes three times its gathered rows, with oneDNN's copy of them and the result; below half of
        CHUNK_BYTES, though, chunks would cost time.
        """
        if device.type == "cpu":
            return Budget(min(CHUNK_BYTES, max(CHUNK_BYTES // 2, bytes_in_and_out // 3)), CPU_BLOCK_COST)
        return Budget(max(CHUNK_BYTES, bytes_in_and_out), DEVICE_BLOCK_COST)


@dataclass(frozen=True)
class Rows:
    """A sparse [n_out, n_in] matrix; row i has the entries start[i] : start[i + 1]."""

    start: np.ndarray
    index: np.ndarray
    value: np.ndarray
    n_in: int

    @staticmethod
    def of(out: np.ndarray, into: np.ndarray, value: np.ndarray, n_out: int, n_in: int) -> Rows:
        """From entries in any order; within a row they are sorted, so that sums have a fixed order."""
        order, count = np.lexsort((into, out)), np.bincount(out, minlength=n_out)
        return Rows(np.cumsum(count) - count, into[order], value[order], n_in)


class SparseGather:
    """A sparse matrix applied to the rows of many planes at once, by torch's one-pass kernel `embedding_bag`."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._tiled: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, table: Tensor, planes: int) -> Tensor:
        """Shape: table [planes * n_in, T] -> [planes * n_out, T]."""
        index, start, value = self._tensors(planes, table.dtype, table.device)
        return torch.embedding_bag(table, index, start, False, 0, False, value)[0]  # mode 0: sum

    def _tensors(self, planes: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The matrix, repeated along the diagonal for every plane."""
        key = (planes, dtype, device)
        if key not in self._tiled:
            if len(self._tiled) >= 8:  # batches of ever different sizes must not fill the memory
                self._tiled.pop(next(iter(self._tiled)))
            plane = np.arange(planes)[:, None]
            index = torch.from_numpy((self.rows.index + plane * self.rows.n_in).ravel().astype(np.int32))
            start = torch.from_numpy((self.rows.start + plane * self.rows.index.size).ravel().astype(np.int32))
            value = torch.from_numpy(np.tile(self.rows.value, planes)).to(dtype)
            self._tiled[key] = index.to(device), start.to(device), value.to(device)
        return self._tiled[key]


class Block:
    """Output rows first to last, the harmonics `ks` that read something there, what they read, and the adjoint."""

    def __init__(self, plan: Plan, first: int, last: int, ks: np.ndarray) -> None:
        self.first, self.last, self.n_ks = first, last, len(ks)
        # harmonics are almost always consecutive: then a slice, which is a view of the weight
        run = slice(int(ks[0]), int(ks[-1]) + 1) if len(ks) else slice(0, 0)
        self.ks: slice | list[int] = run if run.stop - run.start == len(ks) else ks.tolist()
        low, frac = plan.low[ks, first:last].ravel(), plan.frac[ks, first:last].ravel()
        value = np.stack([1 - frac, frac]) * plan.active[ks, first:last].ravel()
        keep = value > 0
        row = np.broadcast_to(np.arange(low.size), value.shape)[keep]
        source = np.stack([low, low + 1])[keep]
        # all reads lie in rows [x_first, x_last) of x: the only ones that this block's gradient reaches
        self.x_first, self.x_last = (int(source.min()), int(source.max()) + 1) if source.size else (0, 0)
        n_x = self.x_last - self.x_first
        self.gather = SparseGather(Rows.of(row, source, value[keep], low.size, plan.rows))
        self.adjoint = SparseGather(Rows.of(source - self.x_first, row, value[keep], n_x, low.size))


def linear_interpolation(positions: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """The two rows around each position and their weights; both weights are 0 outside [0, n_rows - 1].

    Shape: positions float64 [Kf, G] -> rows int64 [2, Kf, G], weights float64 [2, Kf, G].
    """
    whole = positions.round()
    positions = torch.where((positions - whole).abs() <= SNAP, whole, positions)
    inside = (positions >= 0) & (positions <= n_rows - 1)
    positions = torch.where(inside, positions, 0.0)
    low = positions.floor()
    upper = positions - low
    rows = torch.stack([low, (low + 1).clamp(max=n_rows - 1)]).long()
    return rows, torch.stack([1 - upper, upper]) * inside


class Plan:
    """All that depends on the positions and the number of input rows alone.

    Args:
        positions: fractional rows, float64 [Kf, G].
        rows: rows of the input.

    Attributes:
        lerp_rows, lerp_weights: the two rows around each position, and their weights, 2 x [2, Kf, G].
        active: which positions lie on the axis, bool [Kf, G].
        backend_data: tables that a backend has made of it, by device.
    """

    def __init__(self, positions: Tensor, rows: int) -> None:
        self.positions = positions
        self.rows, (self.harmonics, self.rows_out) = rows, positions.shape
        self.backend_data: dict[torch.device, Any] = {}
        with torch.inference_mode(False):  # it may serve a training step later
            self.lerp_rows, self.lerp_weights = linear_interpolation(positions.clone(), rows)
        self.low, self.frac = self.lerp_rows[0].numpy(), self.lerp_weights[1].numpy()
        self.active = self.lerp_weights.sum(0).numpy() > 0
        self._blocks: dict[tuple[int, int, Budget], list[Block]] = {}

    def __reduce__(self) -> tuple[type[Plan], tuple[Tensor, int]]:
        """Copies and pickles are made from the positions: backend_data may lie on a device that is missing there."""
        return Plan, (self.positions, self.rows)

    def chunks(self, batch: int, row_cost: int, row_bytes: int, budget: Budget) -> tuple[int, list[Block]]:
        """How many batch items a chunk has, and the blocks of output rows.

        Args:
            batch: batch items of the input.
            row_cost, row_bytes: multiply-adds of, and bytes gathered for, one row of one harmonic of one item.
        """
        needed = max(1, int(self.active.sum()) * row_bytes)
        items = max(1, min(batch, budget.chunk_bytes // needed))
        return items, self.blocks(items * row_cost, items * row_bytes, budget)

    def blocks(self, row_cost: int, row_bytes: int, budget: Budget) -> list[Block]:
        """Cut the output rows into blocks of least total work.

        A block costs budget.block_cost + rows * harmonics * row_cost. A cut can only pay where the set of active
        harmonics changes; the best choice of cuts follows from a short dynamic programme. Blocks that gather more than
        budget.chunk_bytes are then divided evenly.
        """
        key = (row_cost, row_bytes, budget)
        if key in self._blocks:
            return self._blocks[key]
        changes = np.flatnonzero((self.active[:, 1:] != self.active[:, :-1]).any(0)) + 1
        cuts = [0, *changes.tolist(), self.rows_out]
        best: list[tuple[int, list[int]]] = [(0, [0])]  # least work up to each cut, and the cuts it takes
        for j, last in enumerate(cuts[1:], 1):
            work = [(last - i) * int(self.active[:, i:last].any(1).sum()) for i in cuts[:j]]
            cost, i = min((best[i][0] + budget.block_cost + work[i] * row_cost, i) for i in range(j))
            best.append((cost, [*best[i][1], last]))
        blocks = []
        for first, last in pairwise(best[-1][1]):
            ks = np.flatnonzero(self.active[:, first:last].any(1))
            parts = -(-(last - first) * len(ks) * row_bytes // budget.chunk_bytes)
            edges = np.linspace(first, last, max(1, min(parts, last - first)) + 1).astype(int).tolist()
            blocks += [Block(self, a, b, ks) for a, b in pairwise(edges)]
        if len(self._blocks) >= 8:
            self._blocks.pop(next(iter(self._blocks)))
        self._blocks[key] = blocks
        return blocks


@functools.lru_cache(maxsize=32)
def _cached(shape: tuple[int, int], data: bytes, rows: int) -> Plan:
    return Plan(torch.frombuffer(bytearray(data), dtype=torch.float64).view(shape), rows)


def plan_for(positions: np.ndarray | Tensor, rows: int) -> Plan:
    """The plan for a [Kf, G] table of positions over an input of `rows` rows; the latest 32 are cached."""
    with without_functorch():  # a plan is of numbers, whatever torch.func does with the input
        table = torch.as_tensor(positions, dtype=torch.float64, device="cpu")
        if table.dim() != 2 or 0 in table.shape:
            raise ValueError(f"expected positions [Kf, G], got {list(table.shape)}")
        return _cached((table.shape[0], table.shape[1]), table.numpy().tobytes(), rows)
