"""Cache of values that are computed from parameters, until a parameter changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from hlfeat.nn._private_torch import version


def parameter_key(params: Iterable[Tensor]) -> object:
    """A key that stays equal until a parameter changes.

    On the CPU it holds the values, which also shows writes through `.data`. On a GPU, where reading values would wait
    for the device, it holds the address and the number of writes.
    """
    return [(p.dtype, p.device, p.tolist() if p.device.type == "cpu" else (p.data_ptr(), version(p))) for p in params]


Made = TypeVar("Made")


class Kept(Generic[Made]):
    """One value made from parameters. It is made again after a parameter has changed."""

    def __init__(self) -> None:
        self._key: object = None
        self.made: Made | None = None

    def get(self, params: Sequence[Tensor], make: Callable[[], Made]) -> Made:
        key = parameter_key(params)
        if self.made is None or key != self._key:
            # outside of inference mode, whose tensors cannot take part in a later training step
            with torch.inference_mode(False), torch.no_grad():
                self.made = make()
            self._key = key
        return self.made

    def drop(self) -> None:
        self._key = self.made = None
