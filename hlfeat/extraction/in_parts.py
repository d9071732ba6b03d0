"""A run that does all of its parts: one after the other on this machine.

Each part writes what it writes where it is done alone (`Options.part`), on whichever machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hlfeat.errors import HlfeatError, InterruptedRunError, UsageError
from hlfeat.extraction.forwarding import Listener, forwarding_hooks
from hlfeat.extraction.one_part import Work, extract_part
from hlfeat.extraction.options import Options
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Hooks
from hlfeat.extraction.run_log import SourceFilter
from hlfeat.extraction.run_report import attach_report
from hlfeat.extraction.setup import describe_run
from hlfeat.partition import WHOLE, Part
from hlfeat.remote.retries import Retries
from hlfeat.storage.continuation import Continuation
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.output_place import OutputPlace
from hlfeat.storage.run_parts import number_of_parts
from hlfeat.text import count

log = logging.getLogger("hlfeat")


def extract_in_parts(work: Work, options: Options, hooks: Hooks) -> Report:
    """Do all `options.parts` here, one after the other; the first error ends the run."""
    parts = choose_parts(options, work.place)
    assert parts is not None, "without workers elsewhere, the options say how many parts there are"
    check_parts(work, options, parts)
    remove_earlier(work, options)
    options = replace(options, parts=None, overwrite=False)
    started, done = time.perf_counter(), list[Report]()
    progress = hooks.progress(len(work.clips), 0, options.quiet)
    listener = Listener(hooks, progress)
    try:
        with _named_log() as names:
            for part in WHOLE.split(parts):
                names.source = f"part {part}"
                if hooks.stopped():
                    raise InterruptedRunError
                done.append(_one_of_several(work, replace(options, part=part), listener, hooks))
    except HlfeatError as e:
        attach_report(e, [*(report.as_dict() for report in done), *([e.report] if e.report else [])])
        raise
    finally:
        progress.close()
    return summed(done, time.perf_counter() - started)


def _one_of_several(work: Work, options: Options, listener: Listener, hooks: Hooks) -> Report:
    def show(kind: str, value: Any) -> None:
        listener.take("", kind, value)

    return extract_part(work, options, forwarding_hooks(show, hooks.stopped))


def summed(reports: list[Report], seconds: float) -> Report:
    """The report of all parts, which took so many seconds together."""
    report = Report.of_parts(reports)
    return replace(report, seconds={**report.seconds, "total": seconds})


def choose_parts(options: Options, out: OutputPlace) -> int | None:
    """How many parts the run has: as `options.parts` says, or as the folder has; None if neither says so.

    Each part may be divided among devices: the files are those of so many times more parts.

    Raises UsageError where `options.parts` is "auto", and the folder has no parts, or some that these devices cannot
    have made.
    """
    if isinstance(options.parts, int):
        return options.parts
    existing = None if options.overwrite else number_of_parts(out.folder())
    if existing is None:
        if options.on is not None:
            return None
        why = "is begun anew" if options.overwrite else "is not in parts yet"
        raise UsageError(f"parts: {out} {why}: expected a number of parts, got auto")
    devices = len(options.devices)
    if existing % devices:
        raise UsageError(f"parts: {out} is in {count(existing, 'part')}, which are not those of {devices} devices each")
    return existing // devices


def check_parts(work: Work, options: Options, parts: int) -> None:
    """Raise the errors that every part would raise. Nothing is written."""
    pipeline = work.product.prepare(work.config, options.weights, options.stats)
    first = Part(parts * len(options.devices))
    description = describe_run(pipeline, work.clips, first)
    Continuation(work.place.folder(), WHOLE if options.overwrite else first).check(description, options.overwrite)


def remove_earlier(work: Work, options: Options) -> None:
    """With `options.overwrite`, remove what earlier runs wrote, at the last moment before the parts begin.

    Afterwards the parts are done without `overwrite`, with which each would remove the others' work.
    """
    if options.overwrite:
        with OutputDir(work.place, retries=Retries(options.retries)) as output:
            output.catalog.clean(everything=True)


@contextmanager
def _named_log() -> Iterator[SourceFilter]:
    """Lines of the log name the part that they are about."""
    names = SourceFilter()
    log.addFilter(names)
    try:
        yield names
    finally:
        log.removeFilter(names)
