"""Scratch: memory that the chunks of one computation share, and the views of it that they need again."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class Scratch:
    """Memory for intermediate results; without it, much of the time goes into fresh pages of memory.

    Args:
        like: its type and device are those of the memory.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._held: dict[str, Tensor] = {}
        self._made: dict[Hashable, Any] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Memory of this name and shape; it holds what was last written to this name, or anything."""
        size = math.prod(shape)
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = self._like.new_empty(size)
        held = self._held[name]
        return held.view(shape) if held.numel() == size else held[:size].view(shape)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` made of this scratch at the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[no-any-return]


class Scratches:
    """As many as are in use at once: threads that compute pieces take one for each, and give it back."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._free: list[Scratch] = []

    @contextmanager
    def one(self) -> Iterator[Scratch]:
        try:
            scratch = self._free.pop()  # a list's pop and append are safe among threads
        except IndexError:
            scratch = Scratch(self._like)
        yield scratch
        self._free.append(scratch)
