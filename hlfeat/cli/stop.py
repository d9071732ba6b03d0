"""Signals that stop the command."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from hlfeat.extraction.stop_signals import when_stopped

if TYPE_CHECKING:
    pass


class InterruptedEarlyError(BaseException):
    """Stopped before there was anything to resume."""


class StopRequest:
    """SIGINT and others: before the work begins they end the program, then they ask it to stop; a second one kills."""

    def __init__(self) -> None:
        self.working = self.asked = False
        self.heard = when_stopped(self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True  # even if somebody between here and there catches everything
        if not self.working:
            raise InterruptedEarlyError("interrupted")
        for s in self.heard:
            signal.signal(s, signal.SIG_DFL)
