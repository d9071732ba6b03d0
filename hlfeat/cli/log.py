"""Log lines on standard error."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hlfeat.extraction.report import Report


class TqdmHandler(logging.Handler):
    """Writes log lines to standard error without breaking the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        # The reader of standard error may have ended (2>&1 | head); the run goes on.
        with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):
            print(self.format(record), file=sys.stderr, flush=True)


def set_up_logging(verbose: bool, quiet: bool = False) -> None:
    """Send the package's log and Python's warnings to standard error."""
    log = logging.getLogger("hlfeat")
    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("hlfeat: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)
    warnings.showwarning = lambda message, *_: log.warning("%s", " ".join(str(message).split()))


def failures_by_code(report: Report) -> str:
    """'3 clips failed (empty 1, truncated 2)'."""
    from hlfeat.text import count

    facts = report.as_dict()
    codes = ", ".join(f"{code} {n}" for code, n in facts["failures_by_code"].items())
    return f"{count(facts['failures'], 'clip')} failed ({codes})"
