"""Chunks: the pieces in which the torch backend works, and what each of them reads.

Interpolation acts on rows only and the kernel's time direction on columns only. So for any block of output rows, with A
the harmonics that read something there,

    L[c, k, f, :] = (1 - w) X[c, floor p, :] + w X[c, floor p + 1, :]      k in A      (gather)
    Y[o, f, :]    = bias[o] + conv1d(L[(c, k), f, :], W[o, (c, k), :])                 (convolve)

The first line is a product with a sparse matrix of at most two entries a row; entries of weight zero are not stored, so
that a whole position is a copy and one outside the axis gives zero.

On the CPU, batch and frames decide where blocks end, so that a chunk (some batch items times a block) stays in cache.
A device would have to wait for a new table whenever they change. So there the rows and channels alone decide, and each
table is copied to it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hlfeat.nn.harmonic.plan import Plan, Time

# Gathered rows of one chunk: they stay in cache, and the allocator reuses their pages. On two cores that share 32 MiB
# of cache, 8 MiB take up to 1.2 times as long forward, and 2 MiB up to 1.2 times as long with backward.
CHUNK_BYTES = 4 << 20
CPU_BLOCK_COST = 14_000_000  # multiply-adds that one more block is worth: oneDNN takes 0.15 ms to set up
# Rows of one harmonic that one more block is worth on a GPU: an estimate, not measured. Three launches take 30 us. So
# does the gathering of 120 rows of 2 channels in a batch of 512 s at 100 frames a second, at 3 TB a second.
DEVICE_BLOCK_ROWS = 128
DEVICE_TABLE_ENTRIES = 1 << 20  # of a table on a device: 8 MiB of rows and weights, besides where each sum begins


def sizes_decide(device: torch.device) -> bool:
    """Whether batch and frames decide how work is cut: on the CPU, to which no table has to be copied."""
    return device.type == "cpu"


@dataclass(frozen=True)
class Budget:
    """How work is cut on the CPU: bytes gathered at once, and multiply-adds that one more block is worth."""

    chunk_bytes: int
    block_cost: int


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
    """A sparse matrix applied to the rows of many planes at once, by torch's one-pass kernel `embedding_bag`.

    Args:
        rows: the matrix.
        planes: that its tables are made for at least. A table for more planes begins with that for fewer.
    """

    def __init__(self, rows: Rows, planes: int = 1) -> None:
        self.rows = rows
        self.planes = planes
        self._tables: dict[tuple[torch.dtype, torch.device], tuple[int, Tensor, Tensor, Tensor]] = {}

    def __call__(self, table: Tensor, planes: int) -> Tensor:
        """Shape: table [planes * n_in, T] -> [planes * n_out, T]."""
        index, start, value = self._tensors(planes, table.dtype, table.device)
        return torch.embedding_bag(table, index, start, False, 0, False, value)[0]  # mode 0: sum

    def _tensors(self, planes: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The matrix, repeated along the diagonal for every plane."""
        key, entries, n_out = (dtype, device), self.rows.index.size, self.rows.start.size
        made = self._tables.get(key)
        if made is None or made[0] < planes:
            most = max(planes, self.planes)
            plane = np.arange(most)[:, None]
            index = torch.from_numpy((self.rows.index + plane * self.rows.n_in).ravel().astype(np.int32))
            start = torch.from_numpy((self.rows.start + plane * entries).ravel().astype(np.int32))
            value = torch.from_numpy(np.tile(self.rows.value, most)).to(dtype)
            made = self._tables[key] = most, index.to(device), start.to(device), value.to(device)
        _, index, start, value = made
        return index[: planes * entries], start[: planes * n_out], value[: planes * entries]


class Block:
    """Output rows first to last, the harmonics `ks` that read something there, what they read, and the adjoint.

    Args:
        ks: in increasing order.
        planes: channels times batch items that tables are made for at least.
    """

    def __init__(self, plan: Plan, first: int, last: int, ks: np.ndarray, planes: int = 1) -> None:
        self.first, self.last, self.n_ks = first, last, len(ks)
        # harmonics are almost always consecutive: then a slice, which is a view of the weight
        run = slice(int(ks[0]), int(ks[-1]) + 1) if len(ks) else slice(0, 0)
        self.ks: slice | list[int] = run if run.stop - run.start == len(ks) else ks.tolist()
        source = plan.rows_read[:, ks, first:last].reshape(2, -1)
        value = plan.weights_read[:, ks, first:last].reshape(2, -1)
        keep, size = value > 0, value.shape[1]
        row = np.broadcast_to(np.arange(size), value.shape)[keep]
        source = source[keep]
        # all reads lie in rows [x_first, x_last) of x: the only ones that this block's gradient reaches
        self.x_first, self.x_last = (int(source.min()), int(source.max()) + 1) if source.size else (0, 0)
        n_x = self.x_last - self.x_first
        self.gather = SparseGather(Rows.of(row, source, value[keep], size, plan.rows), planes)
        self.adjoint = SparseGather(Rows.of(source - self.x_first, row, value[keep], n_x, size), planes)


def chunks(x: Tensor, weight: Tensor, plan: Plan, time: Time) -> tuple[int, list[Block]]:
    """How many batch items a chunk has, and the blocks of output rows.

    Shape: x [B, C, F, T], weight [O, C / groups, Kf, Kt].
    """
    batch, channels, _, frames = x.shape
    if not sizes_decide(x.device):
        return on_device(plan, batch, channels, len(weight), time.stride)
    row_cost = time.frames(frames, weight.shape[3]) * weight.numel() // plan.harmonics
    row_bytes = channels * frames * x.element_size()
    return by_size(plan, batch, row_cost, row_bytes, Budget(CHUNK_BYTES, CPU_BLOCK_COST))


def by_size(plan: Plan, batch: int, row_cost: int, row_bytes: int, budget: Budget) -> tuple[int, list[Block]]:
    """Chunks on the CPU; blocks that gather more than budget.chunk_bytes are divided evenly.

    Args:
        batch: batch items of the input.
        row_cost, row_bytes: multiply-adds of, and bytes gathered for, one row of one harmonic of one item.
    """
    needed = max(1, int(plan.active.sum()) * row_bytes)
    items = max(1, min(batch, budget.chunk_bytes // needed))
    key = (items * row_cost, items * row_bytes, budget)
    kept: dict[object, list[Block]] = plan.backend_data.setdefault("blocks by size", {})
    if key not in kept:
        blocks = []
        for first, last, ks in plan.cuts(items * row_cost, budget.block_cost):
            parts = -(-(last - first) * len(ks) * items * row_bytes // budget.chunk_bytes)
            blocks += [Block(plan, a, b, ks) for a, b in divided(first, last, parts)]
        if len(kept) >= 8:  # batches of ever different sizes must not fill the memory
            kept.pop(next(iter(kept)))
        kept[key] = blocks
    return items, kept[key]


def on_device(plan: Plan, batch: int, channels_in: int, channels_out: int, stride: int) -> tuple[int, list[Block]]:
    """Chunks on a GPU: blocks follow from the plan, channels and stride of time; items from the tables' planes.

    A block gathers no more than input and output hold.
    """
    most = plan.rows + plan.rows_out * channels_out // (channels_in * stride)  # rows of one harmonic
    key = ("blocks on a device", most)
    if key not in plan.backend_data:
        blocks = []
        for first, last, ks in plan.cuts(1, DEVICE_BLOCK_ROWS):
            run = np.arange(ks[0], ks[-1] + 1) if len(ks) else ks  # a list of harmonics would be copied to the device
            for a, b in divided(first, last, -(-(last - first) * len(run) // most)):
                planes = max(1, DEVICE_TABLE_ENTRIES // max(1, 2 * len(run) * (b - a)))
                blocks.append(Block(plan, a, b, run, planes))
        plan.backend_data[key] = blocks
    made: list[Block] = plan.backend_data[key]
    planes = min((b.gather.planes for b in made if b.n_ks), default=batch * channels_in)
    return max(1, min(batch, planes // channels_in)), made


def divided(first: int, last: int, parts: int) -> list[tuple[int, int]]:
    """Rows first to last in so many parts, of one row at least."""
    edges = np.linspace(first, last, max(1, min(parts, last - first)) + 1).astype(int).tolist()
    return list(pairwise(edges))
