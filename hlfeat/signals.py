"""Signals that ask a run to stop, less those that whoever started it wants ignored: `nohup`, and `&` in a script."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def when_stopped(handler: Callable[[int, Any], Any]) -> list[signal.Signals]:
    """Have the handler called for them. Returns those that are not ignored."""
    heard = [s for s in STOPS if signal.getsignal(s) != signal.SIG_IGN]
    for s in heard:
        signal.signal(s, handler)
    return heard
