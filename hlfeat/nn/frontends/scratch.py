"""Scratch: memory that the chunks of one computation share."""

from __future__ import annotations

import math

from torch import Tensor


class Scratch:
    """Memory for intermediate results; without it, much of the time goes into fresh pages of memory.

    Args:
        like: its type and device are those of the memory.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Memory of this name and shape; it holds what was last written to this name, or anything."""
        size = math.prod(shape)
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = self._like.new_empty(size)
        return self._held[name][:size].view(shape)
