"""What a run has left in a directory, be it features or pitch tracks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hlfeat.errors import UsageError
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.description import read_description
from hlfeat.storage.layout import Layout, ShardFiles, indexed_shards, own_files
from hlfeat.storage.records import FailureRecord, IndexEntry, read_failures, read_index
from hlfeat.storage.run_parts import is_complete


class RunDir:
    """What hlfeat.yaml says and which files there are.

    Raises:
        UsageError: there is no hlfeat.yaml.
        OutputError: hlfeat.yaml is damaged.

    Attributes:
        description: what hlfeat.yaml says.
        shards: the files of the finished shards, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        if parts != [WHOLE]:
            paths = [Layout(self.folder, part).report for part in parts]
            return [reason for path in paths if (reason := _why_not_done(path))]
        path = Layout(self.folder).report
        try:
            report = json.loads(path.read_bytes())
            reported = report["clips"], report["failures"]
        except FileNotFoundError:
            return [f"no {path.name}: the run was stopped, or is at work"]
        except (OSError, ValueError, RecursionError, TypeError, KeyError):
            return [f"{path.name} is damaged"]
        if not is_complete(report):
            return [_interrupted(path, report)]
        if reported != (clips, failures):
            return [f"{path.name} is of {reported[0]} clips and {reported[1]} failures, an earlier run's"]
        return []


def _why_not_done(path: Path) -> str:
    """Why the part of a report is not done; nothing for one that is. Whoever merges reports says which are damaged."""
    try:
        report = json.loads(path.read_bytes())
    except FileNotFoundError:
        return f"no {path.name}: that part is not done"
    except (OSError, ValueError, RecursionError):
        return ""
    return "" if not isinstance(report, dict) or is_complete(report) else _interrupted(path, report)


def _interrupted(path: Path, report: Mapping[str, Any]) -> str:
    return f"{path.name}: the run was interrupted ({report.get('interrupted', 'it does not say why')})"
