"""Which part of the clips a process does: --part I/N, or --part auto[/N] and the environment of a job."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hlfeat.errors import UsageError
from hlfeat.partition import WHOLE, Part, TaskNumbers

if TYPE_CHECKING:
    from hlfeat.storage.output_place import OutputPlace
    from hlfeat.storage.run_parts import RunParts

AUTO = "auto"
CHOOSE = "--part I/N says which part this is"


@dataclass(frozen=True, slots=True)
class SlurmArray:
    """A task of a job array: its number, how many tasks there are, and how they are numbered."""

    task: int
    count: int
    numbers: TaskNumbers
    last: int | None

    def part(self) -> Part:
        """The task's part where each task of the array has one.

        Raises UsageError where the tasks are not evenly spaced, as where some of them are submitted again.
        """
        first, step = self.numbers
        index, remainder = divmod(self.task - first, step)
        if remainder or not 0 <= index < self.count or self.last not in (None, first + (self.count - 1) * step):
            raise UsageError(
                f"expected a SLURM array of evenly spaced tasks, got task {self.task} of {self.count} from {first} in "
                f"steps of {step}; {CHOOSE}"
            )
        return Part(self.count, index + 1, self.numbers)


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """What the environment says about the process.

    Attributes:
        array: SLURM's variables.
        pod: of an indexed Kubernetes job, from 0; how many there are is not in the environment.
        rank, size: torchrun's, or those of another launcher that sets RANK and WORLD_SIZE; None without one.
    """

    array: SlurmArray | None
    pod: int | None
    rank: int
    size: int | None

    @classmethod
    def read(cls, env: Mapping[str, str]) -> JobEnvironment:
        """Raises UsageError for what is not a number, or cannot be."""
        array, pod, rank, size = None, None, 0, None
        if "SLURM_ARRAY_TASK_ID" in env and "SLURM_ARRAY_TASK_COUNT" in env:
            numbers = TaskNumbers(
                _number(env, "SLURM_ARRAY_TASK_MIN", 0), max(1, _number(env, "SLURM_ARRAY_TASK_STEP", 1))
            )
            last = _number(env, "SLURM_ARRAY_TASK_MAX") if "SLURM_ARRAY_TASK_MAX" in env else None
            task, count = _number(env, "SLURM_ARRAY_TASK_ID"), _number(env, "SLURM_ARRAY_TASK_COUNT")
            array = SlurmArray(task, count, numbers, last)
        if "RANK" in env and "WORLD_SIZE" in env:
            rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
            if not 0 <= rank < size:
                raise UsageError(f"expected RANK below WORLD_SIZE, got {rank} and {size}; {CHOOSE}")
        elif array is None and "JOB_COMPLETION_INDEX" in env:
            pod = _number(env, "JOB_COMPLETION_INDEX")
        return cls(array, pod, rank, size)

    def describe(self) -> str:
        """What there is to divide among; "" for one process alone."""
        seen = []
        if self.array is not None and self.array.count > 1:
            seen.append(f"task {self.array.task} of a SLURM array of {self.array.count} tasks")
        if self.size is not None and self.size > 1:
            seen.append(f"process {self.rank} of {self.size} (RANK and WORLD_SIZE)")
        if self.pod is not None:
            seen.append(f"pod {self.pod} of a Kubernetes job (JOB_COMPLETION_INDEX)")
        return " and ".join(seen)


def choose_part(option: str | None, out: OutputPlace, devices: int) -> tuple[Part, str]:
    """The part that --part asks for, and the job that decided it with `auto`, otherwise "".

    Without --part it is the whole: a job may give each task clips of its own. A line of the log says what the
    environment has, and how to divide.

    Args:
        option: of --part.
        out: where the features go; it may be in parts already.
        devices: that the process divides its part among.
    """
    auto = re.fullmatch(rf"{AUTO}(?:/([1-9][0-9]{{0,5}}))?", option or "")
    if auto is not None:
        from hlfeat.storage.run_parts import read_run_parts

        job = JobEnvironment.read(os.environ)
        return part_of_job(job, read_run_parts(out.folder()), devices, of=int(auto[1]) if auto[1] else None)
    if option is not None:
        return parse_part(option), ""
    try:
        seen = JobEnvironment.read(os.environ).describe()
    except UsageError:
        seen = ""
    if seen:
        logging.getLogger("hlfeat").info("this is %s; it does all clips, and with --part auto a part of them", seen)
    return WHOLE, ""


def parse_part(text: str) -> Part:
    """`2/8` as the second of eight.

    Raises UsageError for anything else.
    """
    numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise UsageError(f"--part {text}: expected I/N with I from 1 to N, {AUTO}, or {AUTO}/N")
    return Part(int(numbers[2]), int(numbers[1]))


def part_of_job(
    job: JobEnvironment, run: RunParts | None = None, devices: int = 1, of: int | None = None
) -> tuple[Part, str]:
    """The part of a process of a job, and what decided it.

    Args:
        job: the environment.
        run: the parts that the folder is in already.
        devices: as of `choose_part`.
        of: how many parts there are, if that is known; of a folder too that is not in parts yet.

    Raises UsageError where environment and folder do not say which part it is.
    """
    if of is not None:
        from hlfeat.storage.run_parts import RunParts

        part, source = part_of_job(job, run or RunParts(of * devices, frozenset()), devices)
        if part.of != of:
            raise UsageError(f"--part {AUTO}/{of}: expected {part.of}, as the job or the folder has; {CHOOSE}")
        return part, source
    processes = (job.size or 1) * devices  # of a task
    if run is not None and run.of % processes:
        raise UsageError(f"expected a folder whose parts {processes} processes can divide, got {run.of}; {CHOOSE}")
    tasks = None if run is None else run.of // processes
    part, sources = WHOLE, []
    if job.array is not None:
        part, source = _part_of_task(job, job.array, run, tasks)
        sources.append(source)
    elif job.pod is not None:
        part = _part_of_pod(job.pod, tasks)
        sources.append("Kubernetes job")
    if job.size is not None:
        part = part.split(job.size)[job.rank]
        sources.append("torchrun")
    if not sources:
        raise UsageError(f"--part {AUTO}: expected the variables of a SLURM array, torchrun or Kubernetes; {CHOOSE}")
    return part, " and ".join(sources)


def _part_of_pod(pod: int, tasks: int | None) -> Part:
    if tasks is None:
        raise UsageError(f"JOB_COMPLETION_INDEX {pod} does not say of how many: --part {AUTO}/N does")
    if not 0 <= pod < tasks:
        raise UsageError(f"JOB_COMPLETION_INDEX {pod}: expected a number from 0 below that of parts, {tasks}; {CHOOSE}")
    return Part(tasks, pod + 1)


def _part_of_task(job: JobEnvironment, array: SlurmArray, run: RunParts | None, tasks: int | None) -> tuple[Part, str]:
    """The part of a task of an array, for all of its processes.

    An array with as many tasks as the folder has has one for each part. One with fewer is a part of that array,
    submitted again: SLURM's variables describe the new array only, so the folder has to say how the first one was
    numbered.
    """
    if array.count == 1 and tasks is None and array.task > 1:
        raise UsageError(
            f"SLURM task {array.task} is alone in its array, and the folder is not in parts yet, so of how many it is "
            f"is not known; {CHOOSE}"
        )
    if run is None or tasks is None or array.count == tasks:
        return array.part(), "SLURM array"
    if array.count > tasks:
        raise UsageError(f"a SLURM array of {array.count} tasks, but the folder is of {tasks}; {CHOOSE}")
    if run.tasks is not None:
        first, step = run.tasks
        index, remainder = divmod(array.task - first, step)
        if remainder or not 0 <= index < tasks:
            raise UsageError(
                f"SLURM task {array.task} is none of the {tasks} tasks from {first} in steps of {step} that began the "
                f"folder; {CHOOSE}"
            )
        return Part(tasks, index + 1, run.tasks), f"SLURM task {array.task} of those from {first}"
    return _guessed_part(job, array.task, run, tasks)


def _guessed_part(job: JobEnvironment, task: int, run: RunParts, tasks: int) -> tuple[Part, str]:
    """The part of a task that is submitted again where no part's report says how the tasks were numbered.

    Numbers begin at 0, unless only the part that it would be then is done. The last part's number from 1 cannot be
    one from 0; nothing says then that it is one from 1.
    """
    if not 0 <= task < tasks:
        last = Part(tasks, tasks).split(job.size or 1)[job.rank]
        hint = f"--part {last} if the numbers began at 1" if task == tasks else CHOOSE
        raise UsageError(f"SLURM task {task} is none of {tasks} tasks from 0, as the folder has; {hint}")
    from_0, from_1 = Part(tasks, task + 1), Part(tasks, max(1, task))

    def is_done(part: Part) -> bool:
        return {p.index for p in part.split(run.of // tasks)} <= run.done

    if task and is_done(from_0) and not is_done(from_1):
        return from_1, f"SLURM task {task} of those from 1, as part {from_0} is done"
    other = f"; --part {from_1} if the numbers began at 1" if task else ""
    return from_0, f"SLURM task {task} of those from 0{other}"


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
