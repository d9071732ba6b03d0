"""What a run has left in a directory, be it features or pitch tracks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hlfeat.errors import UsageError
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.description import read_description
from hlfeat.storage.failure_record import FailureRecord, read_failures
from hlfeat.storage.index_entry import IndexEntry, read_index
from hlfeat.storage.layout import Layout, ShardFiles, indexed_shards, own_files
from hlfeat.storage.place import LocalPlace, Place
from hlfeat.storage.run_parts import is_complete


class RunDir:
    """What hlfeat.yaml says and which files there are.

    Args:
        folder: of this machine; or a place that is open, which may be at a URL.

    Raises:
        UsageError: there is no hlfeat.yaml.
        OutputError: hlfeat.yaml is damaged.

    Attributes:
        place: where the directory is; as text, what people call it.
        folder: of this machine, which has all files but the features.
        description: what hlfeat.yaml says.
        shards: the files of the finished shards, in order.
    """

    def __init__(self, folder: Path | Place) -> None:
        self.place = folder if isinstance(folder, Place) else LocalPlace(folder)
        self.folder = folder = self.place.folder
        if not Layout(folder).description.exists():
            raise UsageError(f"{folder}: not a feature directory: there is no hlfeat.yaml in it")
        self.description = read_description(folder)
        self.shards = indexed_shards(folder)

    def entries(self, shard: ShardFiles) -> Iterator[IndexEntry]:
        """The index of a shard. Raises OutputError for one that is damaged."""
        return read_index(shard.index)

    def parts(self) -> list[Part]:
        """The parts that its files are of; the whole where there are none."""
        of = {name.part.of for _, name in own_files(self.folder)} - {WHOLE.of}
        return [part for n in sorted(of) for part in WHOLE.split(n)] or [WHOLE]

    def failures(self) -> Iterator[FailureRecord]:
        """The lines of failures.jsonl, or of all parts'."""
        for part in self.parts():
            path = Layout(self.folder, part).failures
            if path.exists():
                yield from read_failures(path)

    def missing(self, clips: int, failures: int) -> list[str]:
        """Why the directory is not complete, given what it holds; nothing where it is."""
        parts = self.parts()
        if parts == [WHOLE]:
            path = Layout(self.folder).report
            reasons = [_why_not_done(path, (clips, failures), "the run was stopped, or is at work")]
        else:  # each report is compared with the part's own files: the sum of all would not show which part it is
            reasons = [
                _why_not_done(Layout(self.folder, part).report, self._counts(part), "that part is not done")
                for part in parts
            ]
        return [reason for reason in reasons if reason]

    def _counts(self, part: Part) -> tuple[int, int]:
        """The lines of the indexes of a part, and of its failures."""
        indexes = (shard.index for shard in self.shards if shard.layout.part == part)
        return sum(map(_count_lines, indexes)), _count_lines(Layout(self.folder, part).failures)


def _count_lines(path: Path) -> int:
    """How many lines a file has; 0 where it cannot be read, which is reported by whoever needs what is in it."""
    try:
        with open(path, "rb") as f:
            return sum(block.count(b"\n") for block in iter(partial(f.read, 1 << 20), b""))
    except OSError:
        return 0


def _why_not_done(path: Path, there: tuple[int, int], absent: str) -> str:
    """Why a run is not done; nothing where it is.

    Args:
        path: of its report.
        there: how many clips and failures its files have.
        absent: what it means that there is no report.
    """
    try:
        report = json.loads(path.read_bytes())
        reported = report["clips"], report["failures"]
    except FileNotFoundError:
        return f"no {path.name}: {absent}"
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return f"{path.name} is damaged"
    if not is_complete(report):
        return _interrupted(path, report)
    if reported != there:
        return f"{path.name} is of {reported[0]} clips and {reported[1]} failures, an earlier run's"
    return ""


def _interrupted(path: Path, report: Mapping[str, Any]) -> str:
    return f"{path.name}: the run was interrupted ({report.get('interrupted', 'it does not say why')})"
