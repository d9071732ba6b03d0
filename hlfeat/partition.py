"""The clips of a run divided into parts, for several processes or machines: the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Part:
    """Part `index` (from 1) of `of` parts of the clips. Parts write files with different names into one folder.

    >>> [list(range(10))[part.slice(10)] for part in Part().split(3)]
    [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    """

    of: int = 1
    index: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def slice(self, n: int) -> slice:
        """Which of `n` clips belong to the part: consecutive ones, so that all shards together keep the order."""
        return slice((self.index - 1) * n // self.of, self.index * n // self.of)

    def split(self, n: int) -> list[Part]:
        """Divide the part into `n` smaller ones."""
        return [Part(self.of * n, (self.index - 1) * n + i) for i in range(1, n + 1)]


WHOLE = Part()
