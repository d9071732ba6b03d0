"""Progress counts all and shows it now and then; a clock whose stages nest counts every second once."""

from __future__ import annotations

import io
import logging
import sys
import time
from contextlib import suppress

import pytest

from hlfeat.extraction import progress as module
from hlfeat.extraction.progress import Clock, Progress


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


class Terminal(io.StringIO):
    """A terminal, to a program that asks."""

    def isatty(self) -> bool:
        return True


class Shown(Progress):
    """Notes what is shown."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.shown: list[tuple[int, float]] = []

    def show(self, clips: int, seconds: float) -> None:
        self.shown.append((clips, seconds))
        super().show(clips, seconds)


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, which stands still until it is changed."""
    seconds = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    return seconds


def test_progress_counts_every_clip_and_shows_them_together(now):
    progress = Shown(10, 2, True)
    for _ in range(3):
        progress.add(1, 2.0)
    assert (progress.clips, progress.seconds) == (5, 6.0)
    assert progress.shown == [(1, 2.0)]
    now[0] += module.SHOW_EVERY
    progress.add(1, 0.0)
    assert progress.shown == [(1, 2.0), (3, 4.0)]
    progress.add(1, 0.5)
    progress.close()
    assert progress.shown == [(1, 2.0), (3, 4.0), (1, 0.5)]
    progress.close()
    assert len(progress.shown) == 3


def test_the_bar_ends_with_all_that_was_counted(now, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(500, 100, False)
    for _ in range(400):
        progress.add(1, 36.0)
        now[0] += 0.01
    progress.close()
    last = sys.stderr.getvalue().split("\r")[-1]
    assert "500/500" in last
    assert "4.00 h, 1.0000 h/s" in last


def test_a_log_gets_a_line_now_and_then(now, caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = Progress(100, 0, False)
    with caplog.at_level(logging.INFO, "hlfeat"):
        for _ in range(100):
            now[0] += 1
            progress.add(1, 3600.0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{n} of 100 clips, {n}.00 h, 1.0000 h/s" for n in (30, 60, 90)
    ]
