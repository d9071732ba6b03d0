"""Table: where harmonics lie, as the numbers that an operation of torch's compiler can take.

A plan cannot be made within a compiled program, nor be an argument of an operation there. The numbers that it follows
from can: as a tensor, which is an input of the program, so that other values (of an axis that training moves) are no
reason to compile again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hlfeat.nn.axes import Axis, CentreAxis, LinearAxis, LogAxis
from hlfeat.nn.harmonic.plan import Plan, plan_for

POSITIONS = "positions"


@dataclass(frozen=True, eq=False)
class Table:
    """An axis with an anchor and a stride of rows; or positions, which have no others.

    Args:
        kind: what the numbers mean: an axis by the name of its class, or POSITIONS.
        numbers: float64 on the host, those of the axis, or positions [Kf, G].
        anchor, stride: harmonic k is at k / anchor times the frequency of a row; every stride-th row is kept.
    """

    kind: str
    numbers: Tensor
    anchor: int = 1
    stride: int = 1

    @staticmethod
    def of(axis: Axis, anchor: int, stride: int) -> Table:
        match axis:
            case LinearAxis():
                numbers: tuple[float, ...] = (axis.first,)
            case LogAxis():
                numbers = (axis.scale, axis.radix)
            case CentreAxis():
                numbers = (*axis.freqs, axis.resolution)
        with torch.inference_mode(False):  # it may serve a training step later
            host = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        return Table(type(axis).__name__, host, anchor, stride)

    @staticmethod
    def of_positions(positions: np.ndarray | Tensor) -> Table:
        """Raises ValueError for another shape than [Kf, G]."""
        numbers = torch.as_tensor(positions, dtype=torch.float64)
        if numbers.dim() != 2 or 0 in numbers.shape:
            raise ValueError(f"expected positions [Kf, G], got {list(numbers.shape)}")
        return Table(POSITIONS, numbers)

    def rows_out(self, rows: int) -> int:
        """G, for an input of so many rows."""
        return self.numbers.shape[1] if self.kind == POSITIONS else -(-rows // self.stride)

    def plan(self, rows: int, harmonics: int) -> Plan:
        """The plan for an input of so many rows and a kernel of so many harmonics; the latest 32 are cached."""
        if self.kind == POSITIONS:
            return plan_for(self.numbers, rows)
        return _cached(self.kind, self.numbers.numpy().tobytes(), self.anchor, self.stride, rows, harmonics)


@functools.lru_cache(maxsize=32)
def _cached(kind: str, numbers: bytes, anchor: int, stride: int, rows: int, harmonics: int) -> Plan:
    axis = _axis(kind, np.frombuffer(numbers).tolist())
    return Plan(axis.positions(rows, harmonics, anchor)[:, ::stride], rows, axis.order)


def _axis(kind: str, numbers: list[float]) -> Axis:
    match kind:
        case "LinearAxis":
            return LinearAxis(*numbers)
        case "LogAxis":
            return LogAxis(*numbers)
        case _:
            return CentreAxis(tuple(numbers[:-1]), numbers[-1])
