"""Signals that ask a run to stop."""

from __future__ import annotations

import os
import signal

from hlfeat.extraction.stop_signals import STOPS, when_stopped


def test_signals_are_heard_but_for_a_terminal_that_ends_under_nohup():
    before = {s: signal.getsignal(s) for s in STOPS}
    asked = []
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a script's background jobs
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        assert when_stopped(lambda number, _: asked.append(number)) == [signal.SIGINT, signal.SIGTERM]
        for s in STOPS:
            os.kill(os.getpid(), s)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    assert asked == [signal.SIGINT, signal.SIGTERM]
