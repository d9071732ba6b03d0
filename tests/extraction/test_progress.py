"""A clock whose stages nest: every second is counted once."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from hlfeat.extraction.progress import Clock


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """One whose time advances by `time.sleep` alone."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return Clock()


def test_an_inner_stage_does_not_count_for_the_outer_one(clock):
    time.sleep(32)
    with clock("write"):
        time.sleep(1)
        with clock("compute"):
            time.sleep(2)
        time.sleep(4)
        with suppress(ValueError), clock("compute"):
            time.sleep(8)
            raise ValueError
    time.sleep(16)
    assert clock.seconds == {"write": 5, "compute": 10}


def test_waiting_for_items_is_counted_and_using_them_is_not(clock):
    def items():
        for i in range(3):
            time.sleep(1)
            yield i
        time.sleep(1)

    with clock("write"):
        for _ in clock.timed("wait", items()):
            time.sleep(8)
    clock.add({"wait": 0.5, "decode": 2})
    assert clock.seconds == {"wait": 4.5, "write": 24, "decode": 2}
