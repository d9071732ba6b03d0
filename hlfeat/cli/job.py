"""Which part of a job this process does: --part, SLURM arrays, torchrun."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hlfeat.errors import UsageError
from hlfeat.partition import WHOLE, Part


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
