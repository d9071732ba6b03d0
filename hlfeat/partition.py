"""One run's clips in N parts, for several processes or machines: the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Part:
    """The `index`-th, from 1, of `of` parts; parts write files of different names into one folder.

    >>> [list(range(10))[part.slice(10)] for part in Part().split(3)]
    [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    """

    of: int = 1
    index: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def slice(self, n: int) -> slice:
        """The part's share of `n` clips: neighbours, so that the parts' shards in order are the clips in order."""
        return slice((self.index - 1) * n // self.of, self.index * n // self.of)

    def split(self, n: int) -> list[Part]:
        """The part in `n` smaller ones."""
        return [Part(self.of * n, (self.index - 1) * n + i) for i in range(1, n + 1)]


WHOLE = Part()
