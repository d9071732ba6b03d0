"""A run whose parts are done by workers elsewhere, several at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Protocol

from hlfeat.errors import HlfeatError, InterruptedRunError, OutputError, TooManyFailuresError, UsageError
from hlfeat.extraction.in_parts import check_parts, choose_parts, remove_earlier, summed
from hlfeat.extraction.mailbox import Message
from hlfeat.extraction.one_part import Work
from hlfeat.extraction.options import Options
from hlfeat.extraction.part_display import PartDisplay
from hlfeat.extraction.ray_workers import RayWorkers
from hlfeat.extraction.remote_part import Assignment
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Hooks
from hlfeat.extraction.run_report import attach_report
from hlfeat.nn.device import check_device_name
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.driver_token import DriverToken
from hlfeat.storage.output_place import OutputPlace
from hlfeat.text import count

POLL = 0.2  # seconds between looks at what the workers say, and at whether the run is to stop
GRACE = 60.0  # seconds in which a part finishes what it is doing once it is to stop

log = logging.getLogger("hlfeat")

Result = Report | HlfeatError


class Workers(Protocol):
    """Processes that do parts, on whichever machine; each ends with the process that has started it."""

    @property
    def capacity(self) -> int:
        """How many parts they can do at once."""

    def describe(self) -> str:
        """What a part takes, and who has it."""

    def start(self, assignment: Assignment, parts: Sequence[Part]) -> None:
        """Have all parts done."""

    def finished(self, timeout: float) -> list[tuple[Part, Result]]:
        """The parts that have ended since the last time, however, after so many seconds."""

    def messages(self) -> list[Message]:
        """What they have said, at least all that those said which have ended."""

    def stop(self, begun: Collection[int]) -> None:
        """Ask all parts to stop, those that have not begun at once."""

    def kill(self) -> None:
        """End all parts."""

    def close(self) -> None:
        """End the workers that are left."""


def extract_on_workers(
    work: Work, options: Options, hooks: Hooks, connect: Callable[[Options], Workers] = RayWorkers
) -> Report:
    """Have all parts done by workers. A part that fails does not end the others, unless too many clips have failed.

    Args:
        connect: finds workers for parts with these options.

    Raises:
        OutputError: parts have failed.
        TooManyFailuresError: one of them had more failed clips than the options allow.
    """
    for name in options.devices:
        check_device_name(name)
    parts = choose_parts(options, work.place)
    if parts is not None:
        check_parts(work, options, parts)
    with closing(connect(options)) as workers:
        if hooks.stopped():  # before anything is removed
            raise InterruptedRunError
        if parts is None:
            parts = max(1, workers.capacity)
            check_parts(work, options, parts)
        log.info("%s, %s", count(parts, "part"), workers.describe())
        if not workers.capacity:
            log.warning(
                "no node has what a part takes: the parts wait until such a node joins; fewer workers take less"
            )
        with _driver_token(work.place) as token:
            remove_earlier(work, options)
            options = replace(options, parts=None, on=None, overwrite=False)
            return _drive(workers, work, options, hooks, parts, Assignment.of(work, options, token))


@contextmanager
def _driver_token(place: OutputPlace) -> Iterator[str | None]:
    """The token that workers look for in the output; None of a bucket, which is the same on every machine."""
    if place.local is None:
        yield None
        return
    with DriverToken(place.local) as token:
        yield token.token


def _drive(workers: Workers, work: Work, options: Options, hooks: Hooks, parts: int, assignment: Assignment) -> Report:
    started, results = time.perf_counter(), dict[Part, Result]()
    progress = hooks.progress(len(work.clips), 0, options.quiet)
    display = PartDisplay(hooks, progress, parts, len(options.devices), work.place)
    deadline: float | None = None
    too_many: TooManyFailuresError | None = None
    try:
        workers.start(assignment, WHOLE.split(parts))
        while len(results) < parts:
            if deadline is None and (too_many is not None or hooks.stopped()):
                deadline = time.monotonic() + GRACE
                workers.stop(display.begun)
            elif deadline is not None and time.monotonic() > deadline:
                workers.kill()
                break
            ended = workers.finished(POLL)
            display.take(workers.messages())
            for part, result in ended:
                results[part] = result
                display.end(part)
                if isinstance(result, TooManyFailuresError) and too_many is None:
                    too_many = result  # which ends the run, and is told at its end
                elif isinstance(result, HlfeatError) and not (deadline and isinstance(result, InterruptedRunError)):
                    log.error("part %s: %s", part, result)
    finally:
        progress.close()
    reports = [result for _, result in sorted(results.items()) if isinstance(result, Report)]
    if len(reports) == parts:
        return summed(reports, time.perf_counter() - started)
    failed = [result for result in results.values() if isinstance(result, HlfeatError)]
    error = too_many or _error_of(failed, parts, deadline is not None)
    attach_report(error, [*(r.as_dict() for r in reports), *(e.report for e in failed if e.report is not None)])
    raise error


def _error_of(failed: Sequence[HlfeatError], parts: int, stopped: bool) -> HlfeatError:
    """What ends the run, where parts have failed or were stopped."""
    if stopped:
        return InterruptedRunError()
    again = "" if all(isinstance(error, UsageError) for error in failed) else ": run the same again"
    return OutputError(f"{len(failed)} of {count(parts, 'part')} failed; what is finished is kept{again}")
