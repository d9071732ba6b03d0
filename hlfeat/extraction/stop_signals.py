"""The signals that ask a run to stop. Under `nohup`, the end of the terminal is not one of them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def when_stopped(handler: Callable[[int, Any], Any]) -> list[signal.Signals]:
    """Call the handler for these signals. Returns those that are handled.

    SIGINT is handled even if a shell, which put the run into the background, has it ignored: whoever sends it means it.
    """
    heard = [s for s in STOPS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    for s in heard:
        signal.signal(s, handler)
    return heard
