"""Signals that ask a run to stop. Under `nohup` the end of the terminal is none of them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def when_stopped(handler: Callable[[int, Any], Any]) -> list[signal.Signals]:
    """Have the handler called for them. Returns those that are heard.

    SIGINT is, even where a shell that has put the run into the background ignores it: who sends it means it.
    """
    heard = [s for s in STOPS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    for s in heard:
        signal.signal(s, handler)
    return heard
