"""One run's clips in N parts, for several processes or machines: the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Part:
    """The `index`-th, from 1, of `of` parts; parts write files of different names into one folder."""

    of: int = 1
    index: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @property
    def label(self) -> str:
        """What the names of its files have in them: nothing where there is one part only."""
        return "" if self.of == 1 else f"-p{self.index:0{len(str(self.of))}d}of{self.of}"

    def slice(self, n: int) -> slice:
        """Its share of `n` clips: neighbours, so that the parts' shards in order are the clips in order."""
        return slice((self.index - 1) * n // self.of, self.index * n // self.of)

    def split(self, n: int) -> list[Part]:
        """The part in `n` smaller ones."""
        return [Part(self.of * n, (self.index - 1) * n + i) for i in range(1, n + 1)]

    def shard(self, number: int) -> str:
        """shard-00000, or shard-p1of4-00000."""
        return f"shard{self.label}-{number:05d}"

    def statistics(self, number: int) -> str:
        """stats-00000.json, or stats-p1of4-00000.json: what a shard's statistics are called."""
        return f"stats{self.label}-{number:05d}.json"

    def file(self, name: str) -> str:
        """failures.jsonl, or failures-p1of4.jsonl."""
        stem, dot, extension = name.partition(".")
        return f"{stem}{self.label}{dot}{extension}"


WHOLE = Part()
