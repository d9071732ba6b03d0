"""One run's inputs in parts, for many processes or machines: which part this is, and what its files are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hlfeat.errors import UsageError


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
        return statistics_name(self.shard(number))

    def file(self, name: str) -> str:
        """failures.jsonl, or failures-p1of4.jsonl."""
        stem, dot, extension = name.partition(".")
        return f"{stem}{self.label}{dot}{extension}"


WHOLE = Part()
_SHARD = re.compile(r"shard-(?:p(\d+)of(\d+)-)?(\d{5,})")


def shard_place(name: str) -> tuple[Part, int] | None:
    """Part and number of shard-00000 or shard-p1of4-00000, without extension; None for what is no shard's name."""
    found = _SHARD.fullmatch(name)
    return found and (Part(int(found[2] or 1), int(found[1] or 1)), int(found[3]))


def statistics_name(shard: str) -> str:
    """The file of statistics of shard-00000 or shard-p1of4-00000."""
    return f"stats{shard.removeprefix('shard')}.json"


def parse_part(text: str) -> Part:
    """`2/8` as the second of eight.

    Raises UsageError for anything else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--part {text}: expected I/N with I from 1 to N")
    return Part(int(found[2]), int(found[1]))


def part_of_job(env: Mapping[str, str]) -> tuple[Part, str]:
    """The part that a SLURM array task or a torchrun process is to do, and what says so; the whole elsewhere.

    Raises UsageError where the variables do not make a part.
    """
    part, why = WHOLE, []
    if "SLURM_ARRAY_TASK_ID" in env and "SLURM_ARRAY_TASK_COUNT" in env:
        task, count = _number(env, "SLURM_ARRAY_TASK_ID"), _number(env, "SLURM_ARRAY_TASK_COUNT")
        first, step = _number(env, "SLURM_ARRAY_TASK_MIN", 0), max(1, _number(env, "SLURM_ARRAY_TASK_STEP", 1))
        index, odd = divmod(task - first, step)
        if odd or not 0 <= index < count:
            raise UsageError(
                f"expected a SLURM array of evenly spaced tasks, got task {task} of {count} from {first} in steps of "
                f"{step}; --part I/N says which part this is"
            )
        part, why = Part(count, index + 1), ["SLURM array"]
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
        if not 0 <= rank < size:
            raise UsageError(
                f"expected RANK below WORLD_SIZE, got {rank} and {size}; --part I/N says which part this is"
            )
        part = part.split(size)[rank]
        why += ["torchrun"] if size > 1 else []
    return part, " and ".join(why)


def _number(env: Mapping[str, str], key: str, default: int | None = None) -> int:
    value = env.get(key, default)
    try:
        return int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UsageError(f"{key}: expected a whole number, got {value!r}; --part I/N says which part this is") from None
