"""Log lines on standard error."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress

from tqdm import tqdm


class TqdmHandler(logging.Handler):
    """Log lines on standard error that do not break the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        # nobody may be listening any more (2>&1 | head): that is no reason to end the run
        with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):
            print(self.format(record), file=sys.stderr, flush=True)


def set_up_logging(verbose: bool, quiet: bool) -> None:
    from hlfeat.cli.log import TqdmHandler

    log = logging.getLogger("hlfeat")
    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("hlfeat: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)
    warnings.showwarning = lambda message, *_: log.warning("%s", " ".join(str(message).split()))
