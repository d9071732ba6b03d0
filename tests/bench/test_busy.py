"""Processes that keep a machine busy: they compute, and none is left, however the measurement ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hlfeat.bench import busy
from hlfeat.bench import frontend as bench_frontend
from hlfeat.bench.busy import busy_processes

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_processes_are_at_work_inside_and_gone_afterwards():
    with busy_processes(2) as processes:
        assert len({process.pid for process in processes} | {os.getpid()}) == 3
        assert [process.poll() for process in processes] == [None, None]
    assert all(process.poll() is not None for process in processes)
    with busy_processes(0) as processes:
        assert processes == []


@linux
def test_they_compute():
    def ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11])  # time in user mode

    with busy_processes(1) as (process,):
        before, end = ticks(process.pid), time.monotonic() + 60
        while ticks(process.pid) < before + 3:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_they_are_gone_after_an_error(error):
    with pytest.raises(error), busy_processes(2) as processes:
        raise error
    assert all(process.poll() is not None for process in processes)


def test_one_that_does_not_start_or_ends_is_an_error(monkeypatch):

    def end(number: int) -> None:
        with busy_processes(number) as processes:
            processes[-1].kill()
            processes[-1].wait()

    with pytest.raises(RuntimeError, match="ended too early"):
        end(2)
    monkeypatch.setattr(busy, "_PROGRAM", "")
    with pytest.raises(RuntimeError, match="did not start"), busy_processes(2):
        pass


PARENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background of a shell
from hlfeat.bench.busy import busy_processes
with busy_processes(2) as processes:
    print(*(process.pid for process in processes), flush=True)
    time.sleep(120)
"""


@linux
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_their_parent(how):
    """SIGINT to the whole group, as Ctrl-C sends it. They may be zombies where nobody collects them."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]  # type: ignore[union-attr]
        assert len(pids) == 2
        os.killpg(parent.pid, how)
        parent.wait(60)
    end = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_command(invoke, tmp_path, monkeypatch):
    """The frontends are measured while the processes are there."""
    seen = []

    def run(device, settings, quick, all, done, seconds):
        seen.append([process.poll() for process in started])
        done([{"setting": "8G-opt-80", "candidate": "log-mel"}])

    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def note(*arguments, **options):
        process = real(*arguments, **options)
        if "-c" in arguments[0]:
            started.append(process)
        return process

    monkeypatch.setattr(bench_frontend, "run", run)
    monkeypatch.setattr(busy.subprocess, "Popen", note)
    args = ["bench", "frontend", "--device", "cpu", "--json", tmp_path / "b.json"]
    result = invoke(*args, "--busy", 2)
    assert result.returncode == 0, result.stderr
    assert "frontend, other processes at work: 2" in result.stderr
    assert seen == [[None, None]]
    assert not any(process.poll() is None for process in started)
    assert json.loads((tmp_path / "b.json").read_text())["rows"][0]["busy"] == 2
    assert invoke(*args).returncode == 0
    assert len(started) == 2
    assert json.loads((tmp_path / "b.json").read_text())["rows"][0]["busy"] == 0
