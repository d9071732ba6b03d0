"""Signals that ask a run to stop."""

from __future__ import annotations

import os
import signal

from hlfeat.signals import STOPS, when_stopped


def test_signals_are_heard_unless_they_were_ignored():
    before = {s: signal.getsignal(s) for s in STOPS}
    asked = []
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        assert when_stopped(lambda number, _: asked.append(number)) == [signal.SIGINT, signal.SIGTERM]
        for s in STOPS:
            os.kill(os.getpid(), s)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    assert asked == [signal.SIGINT, signal.SIGTERM]
