"""The directory that a run writes to, from the lock at its beginning to the report at its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hlfeat.errors import OutputError
from hlfeat.files import write_atomically
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.catalog import ShardCatalog
from hlfeat.storage.continuation import Continuation
from hlfeat.storage.description import RunDescription
from hlfeat.storage.driver_token import remove_abandoned_token
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import DirectoryLock
from hlfeat.storage.run_parts import is_complete, with_task_numbers


class OutputDir:
    """A locked directory: what is in it, and the files that are written once a run.

    Args:
        folder: created where it is missing.
        part: of the inputs that the run is about.

    Raises:
        OutputError: the directory cannot be made or written, or another run is at work in it.

    Attributes:
        layout: the names of the run's files.
        catalog: finished shards, and failures.
    """

    def __init__(self, folder: Path, part: Part = WHOLE) -> None:
        self.folder, self.part = folder, part
        self.layout = Layout(folder, part)
        self.catalog = ShardCatalog(self.layout)
        self._lock = DirectoryLock(self.layout)

    def close(self) -> None:
        """Give up the lock."""
        self._lock.release()

    def __enter__(self) -> OutputDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_place(self) -> None:
        """Raises OutputError if the folder has been moved away or removed since it was locked."""
        self._lock.check_place()

    def initialise_or_resume(self, description: RunDescription, overwrite: bool) -> None:
        """Write hlfeat.yaml, or check that a run of this description can go on here; remove what is half-made.

        With `overwrite`, what an earlier run wrote is removed first, and nothing else.

        Raises UsageError where the features in the folder have another fingerprint, or belong to another number of
        parts, or files of these names are not hlfeat's.
        """
        checks = Continuation(self.folder, self.part)
        checks.check_options(overwrite)
        path = self.layout.description
        resumed = path.exists() and not overwrite
        if resumed:
            checks.check_same(description)
        self.catalog.clean(everything=not resumed and self.part == WHOLE)
        if not resumed:
            write_atomically(path, description.to_yaml(), beside=self.layout.draft(path))
            checks.check_same(description)  # two parts may begin at the same time, and one has replaced the other's

    def begin(self, report: dict[str, Any]) -> None:
        """Note that there is something to do: write a report that is not complete, which a kill leaves.

        The report of all parts, which is not true any more, goes; the last part writes it again.
        """
        self.interrupt(report)
        if self.part != WHOLE:
            self.layout.whole.report.unlink(missing_ok=True)

    def finish(self, report: dict[str, Any], merge_reports: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> bool:
        """Write the report. True if the directory is complete, which with parts it is when all of them are.

        The last part to finish writes failures.jsonl and report.json of the whole. If two parts are both the last,
        they write the same.
        """
        self._write_report(self.layout, with_task_numbers(report, self.part.tasks))
        if self.part == WHOLE:
            remove_abandoned_token(self.folder)
            return True
        layouts = [Layout(self.folder, part) for part in WHOLE.split(self.part.of)]
        try:
            reports = [json.loads(layout.report.read_bytes()) for layout in layouts]
            if not all(map(is_complete, reports)):
                return False
            failures = b"".join(layout.failures.read_bytes() for layout in layouts)
            merged = merge_reports(reports)
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
            raise OutputError(f"{self.folder}: the report of another part is damaged", remedy="repair") from e
        whole = self.layout.whole
        write_atomically(whole.failures, failures, beside=self.layout.draft(whole.failures))
        self._write_report(whole, merged)
        remove_abandoned_token(self.folder)
        return True

    def interrupt(self, report: dict[str, Any]) -> None:
        """Write the report of a run that has not come to its end, which says so: it completes nothing."""
        self._write_report(self.layout, with_task_numbers(report, self.part.tasks))

    def _write_report(self, layout: Layout, report: dict[str, Any]) -> None:
        text = json.dumps(report, indent=2) + "\n"
        write_atomically(layout.report, text.encode(), beside=self.layout.draft(layout.whole.report))
