"""Progress counts all and shows it now and then; a clock whose stages nest counts every second once."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from contextlib import suppress

import pytest

from hlfeat.extraction import progress as module
from hlfeat.extraction.clock import Clock
from hlfeat.extraction.progress import Progress
from tests import helpers


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
        self.shown: list[tuple[int, float, float]] = []

    def show(self, clips: int, seconds: float, part: float) -> None:
        self.shown.append((clips, seconds, part))
        super().show(clips, seconds, part)


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
    assert progress.shown == [(1, 2.0, 0.0)]
    now[0] += module.SHOW_EVERY
    progress.add(0, 1.0, 0.25)
    assert progress.shown == [(1, 2.0, 0.0), (2, 5.0, 0.25)]
    progress.add(1, 0.5, -0.25)
    progress.close()
    assert progress.shown == [(1, 2.0, 0.0), (2, 5.0, 0.25), (1, 0.5, -0.25)]
    progress.close()
    assert len(progress.shown) == 3


def test_the_bar_ends_with_all_that_was_counted(now, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(500, 60, False)
    progress.resume(40)
    for _ in range(400):
        progress.add(1, 36.0)
        now[0] += 0.01
    progress.close()
    last = sys.stderr.getvalue().split("\r")[-1]
    assert "500/500" in last
    assert "4.00 h, 3600 times real time" in last


def test_the_time_left_counts_the_parts_of_clips(now):
    progress = Progress(11, 1, True)
    assert progress.figures()["seconds_left"] is None
    now[0] += 60
    progress.add(0, 1800.0, 0.5)  # half an hour of an hour
    assert progress.figures() == {
        "clips": 1,
        "clips_total": 11,
        "hours": 0.5,
        "real_time_factor": 30.0,
        "seconds_left": pytest.approx(60 / 0.5 * 9.5),
    }
    now[0] += 60
    progress.add(1, 1800.0, -0.5)
    assert progress.figures()["hours"] == 1
    assert progress.figures()["seconds_left"] == pytest.approx(120 * 9)
    progress.resume(4)  # of another device, which has just begun to say so
    assert progress.figures()["seconds_left"] == pytest.approx(120 * 5)


def test_a_log_gets_a_line_now_and_then(caplog, monkeypatch):
    """Whether or not a clip was finished."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO, "hlfeat"):
        progress = Progress(100, 0, False, every=0.01)
        progress.add(25, 3600.0)
        assert helpers.eventually(lambda: len(caplog.records) > 2)
        progress.close()
        lines = len(caplog.records)
        time.sleep(0.05)
    assert len(caplog.records) == lines
    assert all(
        re.fullmatch(r"25 of 100 clips, 1\.00 h of audio, \d+ times real time, \d+\.\d s left", record.getMessage())
        for record in caplog.records
    )


@pytest.mark.parametrize(("mode", "quiet"), [("none", False), ("lines", True), ("json", True), ("bar", True)])
def test_nothing_is_shown_where_nothing_is_wanted(mode, quiet, caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO, "hlfeat"):
        progress = Progress(100, 0, quiet, mode, 0.001)
        progress.add(1, 1.0)
        time.sleep(0.02)
        progress.close()
    assert (sys.stderr.getvalue(), caplog.records) == ("", [])
