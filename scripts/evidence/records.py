"""Results as lines of JSON: a record each, appended as soon as it is there, so that a run that was stopped goes on.

The first line of each run is its environment: commit, date, versions, processor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from hlfeat.bench.results import environment
from hlfeat.errors import OutputError

Record = dict[str, Any]


class Records:
    """A file of records. A last line that was cut is left out, and written anew.

    Args:
        path: of the file; None: records are kept in memory only.

    Raises:
        OutputError: the file cannot be read or written, or is something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.all: list[Record] = []
        if path is None:
            return
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            self.all = [json.loads(line) for line in whole.splitlines()]
            if len(whole) < len(text):
                path.write_text(whole, encoding="utf-8")
        except (OSError, ValueError) as e:
            raise OutputError(f"{path}: expected results as lines of JSON: {e}") from e
        if not all(isinstance(r, dict) and "experiment" in r for r in self.all):
            raise OutputError(f"{path}: expected results as lines of JSON, each of an experiment")

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        self.all.append(dict(record))
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record, allow_nan=False) + "\n")
            except OSError as e:
                raise OutputError(f"{self._path}: cannot be written: {e.strerror or e}") from e

    def of(self, experiment: str) -> list[Record]:
        """The records of an experiment, in order."""
        return [r for r in self.all if r["experiment"] == experiment]


def of_environment() -> Record:
    """The line that begins a run."""
    return {"experiment": "environment", **environment(torch.device("cpu"))}


def divide(jobs: Iterable[Mapping[str, Any]], finished: Iterable[Record]) -> tuple[list[Record], list[dict[str, Any]]]:
    """Records that have all fields of a job, one a job, and the jobs that have none. Other records are left out."""
    finished = list(finished)
    done, missing = [], []
    for job in jobs:
        record = next((r for r in finished if all(r.get(k) == v for k, v in job.items())), None)
        if record is None:
            missing.append(dict(job))
        else:
            done.append(record)
    return done, missing
