"""Selection: all clips of an index, or some of them in any order."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from hlfeat.storage.index import Index


class Selection:
    """The clips of a store, by their place in it.

    Args:
        index: of all clips.
        numbers: of some, in the index; None: all, in order.

    Attributes:
        index: as given.
        numbers: in the index, in order.
    """

    def __init__(self, index: Index, numbers: Iterable[int] | np.ndarray | None = None) -> None:
        self.index = index
        self.is_all = numbers is None
        self.numbers = range(len(index)) if numbers is None else np.array(numbers, np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def number(self, place: int) -> int:
        """The number in the index of the clip at a place, which may count from the end. Raises IndexError."""
        return int(self.numbers[range(len(self))[place]])

    def find(self, id_: str) -> int | None:
        """The number in the index of the clip of that id; None where the selection has none."""
        number = self.index.find(id_)
        if number is None or self.is_all:
            return number
        rank = int(np.searchsorted(self._sorted, number))
        return number if rank < len(self) and self._sorted[rank] == number else None

    def nearest(self, id_: str) -> list[str]:
        """Ids that are most like an unknown one."""
        return [near for near in self.index.nearest(id_) if self.find(near) is not None]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """All ids, in order."""
        return tuple(map(self.index.id, self.numbers))

    @cached_property
    def frames(self) -> np.ndarray:
        """Of each clip: int64 [clips], which cannot be written."""
        if self.is_all:
            return self.index.frames
        frames = self.index.frames[self.numbers]
        frames.flags.writeable = False
        return frames

    def seconds(self) -> float:
        """Of all clips together."""
        return float((self.index.duration if self.is_all else self.index.duration[self.numbers]).sum())

    @cached_property
    def _sorted(self) -> np.ndarray:
        return np.sort(self.numbers)

    def __getstate__(self) -> dict[str, Any]:  # without what is computed when it is asked for
        return {key: self.__dict__[key] for key in ("index", "is_all", "numbers")}
