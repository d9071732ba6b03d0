"""The command's process: its standard streams, its log and its signals.

Results go to standard output, everything else to standard error. A stream that is closed or full does not stop a run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from hlfeat.cli.errors import InterruptedEarlyError, in_terms_of_options
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


def print_path(path: Path) -> None:
    """Print a path to standard output, byte for byte."""
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


class TqdmHandler(logging.Handler):
    """Writes log lines to standard error without breaking the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):  # its reader may have ended (2>&1 | head)
            print(in_terms_of_options(self.format(record)), file=sys.stderr, flush=True)


def set_up_logging(verbose: bool, quiet: bool = False) -> None:
    """Send the package's log and Python's warnings to standard error."""
    log = logging.getLogger("hlfeat")
    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("hlfeat: %(message)s"))
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
