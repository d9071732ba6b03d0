"""Signals that stop the command."""

from __future__ import annotations

import signal
from typing import Any

from hlfeat.extraction.stop_signals import when_stopped


class InterruptedEarlyError(BaseException):
    """Stopped before there was anything to resume."""


class StopRequest:
    """What SIGINT, SIGTERM and SIGHUP do.

    Before the work begins they end the program. During the work the first one asks it to stop, the second one kills.
    """

    def __init__(self) -> None:
        self.working = self.asked = False
        self.heard = when_stopped(self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True  # remembered even if a library swallows the exception
        if not self.working:
            raise InterruptedEarlyError("interrupted")
        for s in self.heard:
            signal.signal(s, signal.SIG_DFL)
