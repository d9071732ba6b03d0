"""What a run says to machines: events in JSON, and facts that a record of the log carries beside its message.

Handlers look for the attributes `fields` and `once`; a record without them is a message and nothing more.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from tqdm import tqdm

# About the whole run: if several processes say it, it is shown once.
ONCE: dict[str, Any] = {"once": True}

# Shows a message: its level, text, facts, and whether it is about the whole run.
Show = Callable[[int, str, dict[str, Any], bool], None]


def write_event(event: str, fields: dict[str, Any]) -> None:
    """Write a JSON object on a line of standard error, whose reader may have ended (2>&1 | head)."""
    line = json.dumps({"event": event, "time": timestamp(time.time()), **fields})
    with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 has them, in UTC: 2026-01-31T12:00:00.000Z."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def facts(**fields: Any) -> dict[str, Any]:
    """The argument `extra` of a call of a logger: facts by their names, such as the id of a clip."""
    return {"fields": fields}


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """The facts of a record, by their names; empty where it has none."""
    return getattr(record, "fields", {})


class ForwardingHandler(logging.Handler):
    """Hands records to another process, which shows them.

    Forks of the process that made the handler print theirs: long messages of several writers would mix in a pipe.

    Args:
        show: hands a record over.
        printed: makes the lines that forks print.
    """

    def __init__(self, show: Show, printed: logging.Formatter | None = None) -> None:
        super().__init__()
        self._show, self._process, self._printed = show, os.getpid(), printed

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if os.getpid() != self._process:
            line = self._printed.format(record) if self._printed else f"hlfeat: {text}"
            print(line, file=sys.stderr, flush=True)
            return
        with suppress(BrokenPipeError):  # the other process was killed, and nobody listens
            self._show(record.levelno, text, facts_of(record), getattr(record, "once", False))


class ForwardedLog:
    """Logs what other processes hand over.

    Args:
        log: where it goes.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._said = log, set[str]()

    def show(self, source: str, level: int, text: str, fields: dict[str, Any], once: bool) -> None:
        """Log a message of `source`, which the line names unless it is about the whole run."""
        if once:
            if text in self._said:
                return
            self._said.add(text)
        self._log.log(level, "%s", text if once else f"{source}: {text}", extra={"fields": fields})


class SourceFilter(logging.Filter):
    """Lets the lines of one source after the other through as a ForwardedLog shows those of several.

    Attributes:
        source: of the lines to come; "" for those that name none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source, self._said = "", set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "once", False):
            text = record.getMessage()
            new = text not in self._said
            self._said.add(text)
            return new
        if self.source and facts_of(record).get("event") != "progress":  # which is of all sources
            record.msg = f"{self.source}: {record.msg}"
        return True
