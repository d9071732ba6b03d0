"""The clips of a run divided into parts, for several processes or machines: the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class TaskNumbers(NamedTuple):
    """How a job array numbers its tasks: `first`, `first + step`, ..."""

    first: int
    step: int = 1


@dataclass(frozen=True, order=True)
class Part:
    """Part `index` (from 1) of `of` parts of the clips. Parts write files with different names into one folder.

    Args:
        of: the number of parts.
        index: which of them this is.
        tasks: how the job that does the parts numbers its tasks. The report of the part has it, so that a task that is
            submitted again alone is known. Parts that differ in nothing else are equal.

    >>> [list(range(10))[part.slice(10)] for part in Part().split(3)]
    [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    """

    of: int = 1
    index: int = 1
    tasks: TaskNumbers | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def slice(self, n: int) -> slice:
        """Which of `n` clips belong to the part: consecutive ones, so that all shards together keep the order."""
        return slice((self.index - 1) * n // self.of, self.index * n // self.of)

    def split(self, n: int) -> list[Part]:
        """Divide the part into `n` smaller ones."""
        return [Part(self.of * n, (self.index - 1) * n + i, self.tasks) for i in range(1, n + 1)]


WHOLE = Part()
