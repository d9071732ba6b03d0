"""The standard streams of the command: paths on standard output, everything else on standard error."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def keep_stdout_for_paths() -> None:
    """What a decoder in C prints there goes to standard error instead, or it would be taken for a path."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def print_path(path: Path) -> None:
    """A finished shard on standard output; a reader that has gone away (| head) does not stop the run."""
    from tqdm import tqdm

    try:
        with tqdm.external_write_mode(file=sys.stdout):  # takes the bar away meanwhile, if both are on one terminal
            sys.stdout.buffer.write(os.fsencode(path) + b"\n")
            sys.stdout.buffer.flush()
    except OSError as e:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(e, BrokenPipeError):
            logging.getLogger("hlfeat").warning("standard output cannot be written (%s); going on", e.strerror)


def open_streams() -> None:
    """A stream that the caller has closed becomes the null device, or the next file opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w"))
