"""Values computed from parameters, kept until a parameter changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from hlfeat.nn._private_torch import version


def parameter_key(params: Iterable[Tensor]) -> object:
    """Equal as long as no parameter has changed.

    On the CPU these are the values, which also shows writes through `.data`; elsewhere, where reading values would wait
    for the device, storage and version counter.
    """
    return [(p.dtype, p.device, p.tolist() if p.device.type == "cpu" else (p.data_ptr(), version(p))) for p in params]


Made = TypeVar("Made")


class Kept(Generic[Made]):
    """What is made from parameters, until one of them changes."""

    def __init__(self) -> None:
        self._key: object = None
        self.made: Made | None = None

    def get(self, params: Sequence[Tensor], make: Callable[[], Made]) -> Made:
        key = parameter_key(params)
        if self.made is None or key != self._key:
            # made outside inference mode: an inference tensor could not take part in a later training step
            with torch.inference_mode(False), torch.no_grad():
                self.made = make()
            self._key = key
        return self.made

    def drop(self) -> None:
        self._key = self.made = None
