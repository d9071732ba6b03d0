"""Plan: the rows that a harmonic convolution reads, and where its work may be cut; made once for given positions.

Rows that a harmonic does not reach need not be computed: output rows are cut into blocks where the set of harmonics
that read something changes, if the multiplications saved pay for one more block.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.nn._private_torch import without_functorch

SNAP = 1e-9  # a position this close to a whole row is that row (rounding in f * k / n and in logarithms)


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


def linear_interpolation(positions: Tensor, n_rows: int, order: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """The two rows around each position and their weights; both weights are 0 outside [0, n_rows - 1].

    Args:
        order: the row at each whole position; None: the position itself.

    Shape: positions float64 [Kf, G] -> rows int64 [2, Kf, G], weights float64 [2, Kf, G].
    """
    whole = positions.round()
    positions = torch.where((positions - whole).abs() <= SNAP, whole, positions)
    inside = (positions >= 0) & (positions <= n_rows - 1)
    positions = torch.where(inside, positions, 0.0)
    low = positions.floor()
    upper = positions - low
    rows = torch.stack([low, (low + 1).clamp(max=n_rows - 1)]).long()
    if order is not None:
        rows = torch.tensor(order)[rows]
    return rows, torch.stack([1 - upper, upper]) * inside


class Plan:
    """All that depends on the positions and the number of input rows alone.

    Args:
        positions: fractional rows, or ranks of rows, float64 [Kf, G].
        rows: rows of the input.
        order: the row of each rank; None: positions are those of rows.

    Attributes:
        lerp_rows, lerp_weights: the two rows around each position, and their weights, 2 x [2, Kf, G].
        rows_read, weights_read: the same as arrays.
        active: which positions lie on the axis, bool [Kf, G].
        backend_data: what a backend has made of it, such as tables on a device.
    """

    def __init__(self, positions: Tensor, rows: int, order: Sequence[int] | None = None) -> None:
        self.positions, self.order = positions, order
        self.rows, (self.harmonics, self.rows_out) = rows, positions.shape
        self.backend_data: dict[Any, Any] = {}
        with torch.inference_mode(False):  # it may serve a training step later
            self.lerp_rows, self.lerp_weights = linear_interpolation(positions.clone(), rows, order)
        self.rows_read, self.weights_read = self.lerp_rows.numpy(), self.lerp_weights.numpy()
        self.active = self.lerp_weights.sum(0).numpy() > 0

    def __reduce__(self) -> tuple[type[Plan], tuple[Tensor, int, Sequence[int] | None]]:
        """Copies and pickles are made from the positions: backend_data may lie on a device that is missing there."""
        return Plan, (self.positions, self.rows, self.order)

    def lerp_on(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """lerp_rows and lerp_weights on a device, copied to it once."""
        key = ("lerp", device, dtype)
        if key not in self.backend_data:
            with torch.inference_mode(False):
                self.backend_data[key] = self.lerp_rows.to(device), self.lerp_weights.to(dtype).to(device)
        made: tuple[Tensor, Tensor] = self.backend_data[key]
        return made

    def cuts(self, row_cost: int, block_cost: int) -> list[tuple[int, int, np.ndarray]]:
        """Cut the output rows into blocks of least total work: first row, the one after the last, and harmonics.

        A block costs block_cost + rows * harmonics * row_cost. A cut can only pay where the set of active harmonics
        changes; the best choice of cuts follows from a short dynamic programme.
        """
        changes = np.flatnonzero((self.active[:, 1:] != self.active[:, :-1]).any(0)) + 1
        cuts = [0, *changes.tolist(), self.rows_out]
        best: list[tuple[int, list[int]]] = [(0, [0])]  # least work up to each cut, and the cuts it takes
        for j, last in enumerate(cuts[1:], 1):
            work = [(last - i) * int(self.active[:, i:last].any(1).sum()) for i in cuts[:j]]
            cost, i = min((best[i][0] + block_cost + work[i] * row_cost, i) for i in range(j))
            best.append((cost, [*best[i][1], last]))
        return [(i, j, np.flatnonzero(self.active[:, i:j].any(1))) for i, j in pairwise(best[-1][1])]


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
