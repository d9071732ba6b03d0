"""The clips that a process does: its inputs, its part of them (--part, SLURM arrays, torchrun), those that failed."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hlfeat.errors import UsageError
from hlfeat.partition import WHOLE, Part

if TYPE_CHECKING:
    from hlfeat.extraction.report import Report
    from hlfeat.inputs.clip_list import Inputs

CHOOSE = "--part I/N says which part this is"


def collect_clips(inputs: Sequence[str], manifests: Sequence[str], null: bool) -> Inputs:
    """The clips of the command's arguments; '-' is a list on standard input."""
    from hlfeat.inputs.collect import collect_inputs
    from hlfeat.text import count

    clips = collect_inputs(list(inputs), sys.stdin.buffer, null, list(manifests))
    if clips.ignored:
        logging.getLogger("hlfeat").info("skipped %s (not an audio extension)", count(clips.ignored, "file"))
    return clips


def failures_by_code(report: Report) -> str:
    """'3 clips failed (empty 1, truncated 2)'."""
    from hlfeat.text import count

    facts = report.as_dict()
    codes = ", ".join(f"{code} {n}" for code, n in facts["failures_by_code"].items())
    return f"{count(facts['failures'], 'clip')} failed ({codes})"


def choose_part(option: str | None) -> tuple[Part, str]:
    """The part that --part names, otherwise that of the job; and the job's kind, or "" if it did not decide."""
    return part_of_job(os.environ) if option is None else (parse_part(option), "")


def parse_part(text: str) -> Part:
    """`2/8` as the second of eight.

    Raises UsageError for anything else.
    """
    numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise UsageError(f"--part {text}: expected I/N with I from 1 to N")
    return Part(int(numbers[2]), int(numbers[1]))


def part_of_job(env: Mapping[str, str]) -> tuple[Part, str]:
    """The part of a SLURM array task or a torchrun process, and the job's kind; the whole and "" outside of a job.

    Raises UsageError if the environment variables do not make a part.
    """
    part, sources = WHOLE, []
    if "SLURM_ARRAY_TASK_ID" in env and "SLURM_ARRAY_TASK_COUNT" in env:
        part, sources = _part_of_slurm_array(env), ["SLURM array"]
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
        if not 0 <= rank < size:
            raise UsageError(f"expected RANK below WORLD_SIZE, got {rank} and {size}; {CHOOSE}")
        part = part.split(size)[rank]
        sources += ["torchrun"] if size > 1 else []
    return part, " and ".join(sources)


def _part_of_slurm_array(env: Mapping[str, str]) -> Part:
    task, count = _number(env, "SLURM_ARRAY_TASK_ID"), _number(env, "SLURM_ARRAY_TASK_COUNT")
    first, step = _number(env, "SLURM_ARRAY_TASK_MIN", 0), max(1, _number(env, "SLURM_ARRAY_TASK_STEP", 1))
    index, remainder = divmod(task - first, step)
    if remainder or not 0 <= index < count:
        raise UsageError(
            f"expected a SLURM array of evenly spaced tasks, got task {task} of {count} from {first} in steps of "
            f"{step}; {CHOOSE}"
        )
    return Part(count, index + 1)


def _number(env: Mapping[str, str], key: str, default: int | None = None) -> int:
    value = env.get(key, default)
    try:
        return int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UsageError(f"{key}: expected a whole number, got {value!r}; {CHOOSE}") from None


def local_device(device: str, env: Mapping[str, str]) -> str:
    """`device`, or if that is "auto" the GPU that torchrun assigned to this process."""
    rank = env.get("LOCAL_RANK", "")
    if device != "auto" or not rank.isdecimal():
        return device
    import torch

    return f"cuda:{rank}" if torch.cuda.is_available() else device
