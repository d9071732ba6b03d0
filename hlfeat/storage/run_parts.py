"""What a folder of a run in parts says about them: how many there are, which are done, and how a job numbered them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlfeat.partition import WHOLE, TaskNumbers
from hlfeat.storage.catalog import ShardCatalog
from hlfeat.storage.layout import Layout

_ARRAY = "array"  # the key of a report


@dataclass(frozen=True, slots=True)
class RunParts:
    """The parts of a run.

    Attributes:
        of: how many there are.
        done: those that are complete, from 1.
        tasks: the numbers of the tasks of the job that began the run; None if the parts were given by hand.
    """

    of: int
    done: frozenset[int]
    tasks: TaskNumbers | None = None


def read_run_parts(folder: Path) -> RunParts | None:
    """None where there is no folder, or none in parts, or one in parts of several numbers (no run goes on there)."""
    partitions = ShardCatalog(Layout(folder)).other_partitions() if folder.is_dir() else []
    if len(partitions) != 1:
        return None
    reports = {part.index: read_report(Layout(folder, part).report) for part in WHOLE.split(partitions[0])}
    numbers = (_task_numbers(report) for report in reports.values() if report is not None)
    done = frozenset(index for index, report in reports.items() if report is not None and is_complete(report))
    return RunParts(partitions[0], done, next((n for n in numbers if n is not None), None))


def number_of_parts(folder: Path) -> int | None:
    """How many parts there are, 1 for the whole; None where there is no folder, or nothing in it that says so."""
    partitions = ShardCatalog(Layout(folder)).partitions() if folder.is_dir() else []
    return partitions[0] if len(partitions) == 1 else None


def with_task_numbers(report: dict[str, Any], tasks: TaskNumbers | None) -> dict[str, Any]:
    """A part's report, with what `read_run_parts` reads."""
    return report if tasks is None else {**report, _ARRAY: {"first": tasks.first, "step": tasks.step}}


def is_complete(report: Mapping[str, Any]) -> bool:
    """Whether a report is of a run that came to its end; those of earlier versions, which do not say so, are.

    Raises AttributeError for what is no report.
    """
    return report.get("complete") is not False


def read_report(path: Path) -> dict[str, Any] | None:
    """What a report says, little of which is checked; None where there is none, or it is damaged."""
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) else None


def _task_numbers(report: dict[str, Any]) -> TaskNumbers | None:
    array = report.get(_ARRAY)
    if not isinstance(array, dict):
        return None
    first, step = array.get("first"), array.get("step")
    return TaskNumbers(first, step) if isinstance(first, int) and isinstance(step, int) and step > 0 else None
