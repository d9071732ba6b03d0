"""The command's process: its standard streams, its log and its signals.

Results go to standard output, everything else to standard error. A stream that is closed or full does not stop a run.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlfeat.cli.errors import InterruptedEarlyError, in_terms_of_options
from hlfeat.errors import HlfeatError, UsageError
from hlfeat.extraction.stop_signals import when_stopped

# --- standard output ---------------------------------------------------------------------------------------------


def open_streams() -> None:
    """Open the null device for each standard stream that the caller has closed.

    Otherwise the next file that is opened gets its number, and is written to as if it were the stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w"))


def keep_stdout_for_paths() -> None:
    """Send to standard error what decoders written in C print to standard output: a reader would take it for a path."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def print_path(path: Path | str) -> None:
    """Print a path, or a URL, to standard output, byte for byte."""
    _write_line(os.fsencode(path))


def print_line(line: str) -> None:
    """Print a line to standard output, with escapes for characters that its encoding lacks."""
    _write_line(line.encode(sys.stdout.encoding, "backslashreplace"))


def _write_line(line: bytes) -> None:
    """Write a line to standard output. The command goes on if the stream is full or its reader has ended (| head)."""
    from tqdm import tqdm

    try:
        with tqdm.external_write_mode(file=sys.stdout):  # hides the progress bar if it is on the same terminal
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
    except OSError as e:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(e, BrokenPipeError):
            logging.getLogger("hlfeat").warning("standard output cannot be written (%s); going on", e.strerror)


def abandon_full_streams() -> None:
    """Give up what standard output and error cannot take: at its end, Python would try again and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# --- log -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Display:
    """What standard error shows of a run.

    Attributes:
        progress: auto, bar, lines, json or none.
        log_format: text or json.
        quiet: only errors.
    """

    progress: str = "auto"
    log_format: str = "text"
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.log_format == "json" and self.progress == "bar":
            raise UsageError("--progress bar: expected json, lines or none with --log-format json")

    @property
    def mode(self) -> str:
        """What progress is shown as: in a log for machines, events too."""
        return "json" if self.log_format == "json" and self.progress == "auto" else self.progress

    def summary(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What the log line of a run's end takes as `extra`. With JSON for progress only, it is an event beside it."""
        from hlfeat.extraction.run_log import facts, write_event

        if self.log_format == "text" and self.mode == "json" and not self.quiet:
            write_event("summary", fields)
        return facts(event="summary", **fields)

    def ended_early(self, error: HlfeatError, output: object) -> dict[str, Any]:
        """The summary of a run into this output that an error has ended, with what it had done if it had begun."""
        from hlfeat.extraction.run_report import reason_of

        report = error.report or {"complete": False, "interrupted": reason_of(error, Path())}
        return self.summary({**report, "output": str(output)})


def print_error(error: BaseException, message: str) -> None:
    """Print the line about what has ended the command, as the log has its lines; with -v, the traceback too."""
    log = logging.getLogger("hlfeat")
    verbose = log.isEnabledFor(logging.DEBUG)
    if any(isinstance(handler.formatter, JsonFormatter) for handler in log.handlers):
        log.error("%s", message, exc_info=error if verbose else None, extra=getattr(error, "facts", None))
        return
    if verbose:
        traceback.print_exception(error)
    with suppress(OSError):
        print(f"hlfeat: error: {message}", file=sys.stderr, flush=True)


class TqdmHandler(logging.Handler):
    """Writes log lines to standard error without breaking the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):  # its reader may have ended (2>&1 | head)
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def __init__(self) -> None:
        super().__init__("hlfeat: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return in_terms_of_options(super().format(record))


class JsonFormatter(logging.Formatter):
    """A JSON object on each line: time, level and message, and the facts that the record has."""

    def format(self, record: logging.LogRecord) -> str:
        from hlfeat.extraction.run_log import facts_of, timestamp

        line: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "message": in_terms_of_options(record.getMessage()),
            **facts_of(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(verbose: bool, quiet: bool = False, display: Display | None = None) -> None:
    """Send the package's log and Python's warnings to standard error."""
    log = logging.getLogger("hlfeat")
    handler = TqdmHandler()
    handler.setFormatter(JsonFormatter() if display and display.log_format == "json" else TextFormatter())
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)
    warnings.showwarning = lambda message, *_: log.warning("%s", " ".join(str(message).split()))


# --- signals -------------------------------------------------------------------------------------------------------


class StopRequest:
    """Handles SIGINT, SIGTERM and SIGHUP.

    Before the work begins, a signal ends the program. During the work, the first signal asks the run to stop after
    what it is doing, and the second one kills the process.

    Attributes:
        working: whether the work has begun; the command sets it.
        asked: whether a signal has come.
    """

    def __init__(self) -> None:
        self.working = self.asked = False
        self._signals = when_stopped(self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.asked = True  # kept, in case a library swallows the exception
        if not self.working:
            raise InterruptedEarlyError("interrupted")
        for s in self._signals:
            signal.signal(s, signal.SIG_DFL)
