"""The standard streams of the command: results on standard output, everything else on standard error."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path


def keep_stdout_for_paths() -> None:
    """Send to standard error what decoders written in C print to standard output: it would be taken for a path."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def print_path(path: Path) -> None:
    """A path on standard output. The run goes on if its reader has ended (| head)."""
    _write(os.fsencode(path))


def print_line(line: str) -> None:
    """A line on standard output, whatever its encoding. The command goes on if its reader has ended."""
    _write(line.encode(sys.stdout.encoding, "backslashreplace"))


def _write(line: bytes) -> None:
    from tqdm import tqdm

    try:
        with tqdm.external_write_mode(file=sys.stdout):  # hides the bar meanwhile, if both are on one terminal
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
    except OSError as e:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(e, BrokenPipeError):
            logging.getLogger("hlfeat").warning("standard output cannot be written (%s); going on", e.strerror)


def open_streams() -> None:
    """Open the null device for each stream that the caller has closed.

    The next file that is opened would take its number otherwise.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w"))
