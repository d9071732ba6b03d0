"""The directory that a run writes to, from the lock at its beginning to the report at its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hlfeat.errors import OutputError
from hlfeat.partition import WHOLE, Part
from hlfeat.remote.retries import Retries
from hlfeat.storage.catalog import ShardCatalog
from hlfeat.storage.continuation import Continuation
from hlfeat.storage.description import RunDescription
from hlfeat.storage.driver_token import remove_abandoned_token
from hlfeat.storage.layout import Layout
from hlfeat.storage.named_place import place_of
from hlfeat.storage.output_place import OutputPlace
from hlfeat.storage.run_parts import is_complete, with_task_numbers


class OutputDir:
    """A locked directory: what is in it, and the files that are written once a run.

    Args:
        out: a folder, which is created where it is missing, or a prefix of a bucket.
        part: of the inputs that the run is about.
        retries: of requests to a bucket.

    Raises:
        OutputError: the directory cannot be made or written, or another run is at work in it.

    Attributes:
        place: the directory, as messages call it.
        folder: with the files that the run reads; of a bucket, a local one.
        files: writes them.
        layout: the names of the run's files.
        catalog: finished shards, and failures.
    """

    def __init__(self, out: str | Path | OutputPlace, part: Part = WHOLE, retries: Retries = Retries()) -> None:  # noqa: B008
        self.place, self.part = place_of(out), part
        self._open = self.place.open(part, retries)
        self.layout, self.files = self._open.layout, self._open.files
        self.folder = self.layout.folder
        self.catalog = ShardCatalog(self.layout, self.files)

    def close(self) -> None:
        """Give up the lock."""
        self._open.close()

    def __enter__(self) -> OutputDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_place(self) -> None:
        """Raises OutputError if the folder has been moved away or removed since it was locked, or the lock is lost."""
        self._open.lock.check_place()

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
            self.files.create(path, description.to_yaml(), beside=self.layout.draft(path))
            checks.check_same(description)  # two parts may begin at the same time, and one has replaced the other's

    def begin(self, report: dict[str, Any]) -> None:
        """Note that there is something to do: write a report that is not complete, which a kill leaves.

        The report of all parts, which is not true any more, goes; the last part writes it again.
        """
        self.interrupt(report)
        if self.part != WHOLE:
            self.files.remove(self.layout.whole.report)

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
            reports = [json.loads(self.files.read(layout.report)) for layout in layouts]
            if not all(map(is_complete, reports)):
                return False
            failures = b"".join(self.files.read(layout.failures) for layout in layouts)
            merged = merge_reports(reports)
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
            raise OutputError(f"{self.place}: the report of another part is damaged", remedy="repair") from e
        whole = self.layout.whole
        self.files.write(whole.failures, failures, beside=self.layout.draft(whole.failures))
        self._write_report(whole, merged)
        remove_abandoned_token(self.folder)
        return True

    def interrupt(self, report: dict[str, Any]) -> None:
        """Write the report of a run that has not come to its end, which says so: it completes nothing."""
        self._write_report(self.layout, with_task_numbers(report, self.part.tasks))

    def _write_report(self, layout: Layout, report: dict[str, Any]) -> None:
        text = json.dumps(report, indent=2) + "\n"
        self.files.write(layout.report, text.encode(), beside=self.layout.draft(layout.whole.report))
