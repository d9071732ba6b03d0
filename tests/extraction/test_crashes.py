"""A decoder that crashes costs its clip, and a process that is killed costs nothing: whole runs of the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import helpers

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="workers are processes on Linux"),
]

# what every Python process does first that finds it on its path: reading audio of 12,345 Hz is the end of it
CRASH = """
import os, signal, soundfile
read = soundfile.SoundFile.read
def crash(self, *args, **kwargs):
    if self.samplerate == 12345:
        signal.raise_signal(signal.SIGNAL)
    return read(self, *args, **kwargs)
soundfile.SoundFile.read = crash
"""


def with_crash(folder: Path, name: str = "SIGSEGV") -> dict[str, str]:
    """An environment where it is so."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(CRASH.replace("SIGNAL", name))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("report.json", "failures.jsonl")}


@pytest.mark.parametrize(
    ("name", "code", "seconds"),
    [("SIGSEGV", "crashed", 1), ("SIGKILL", "out-of-memory", 1), ("SIGABRT", "crashed", 100)],
)
def test_the_run_goes_on_without_the_clip(clips, tmp_path, hlfeat, name, code, seconds):
    """Also without one of 100 s, which is read while it is computed."""
    size = 4 if seconds == 1 else 100  # a clip that fails while it is computed had its place in a shard
    args = ["extract", clips, "-c", "log-mel", "--shard-size", size, "--workers", 2]
    assert hlfeat(*args, "-o", tmp_path / "good").returncode == 0
    soundfile.write(clips / "d0/crash.wav", np.zeros(12345 * seconds, np.float32), 12345)
    env, out = with_crash(tmp_path / "site", name), tmp_path / "out"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/hlfeat.busy").write_bytes(bytes(16))  # what earlier versions left after a crash
    for more in ([], [], ["--retry-failed"]):
        ran = hlfeat(*args, "-o", out, *more, env=env)
        assert ran.returncode == 3, ran.stderr
        assert "Traceback" not in ran.stderr
        (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
        assert (failure["id"], failure["code"]) == ("d0/crash.wav", code)
        assert name in failure["message"]
        assert files(out) == files(tmp_path / "good")


def test_a_crash_in_statistics(clips, tmp_path, hlfeat):
    args = ["stats", clips, "-c", "log-mel"]
    assert hlfeat(*args, "-o", tmp_path / "good.json").returncode == 0
    soundfile.write(clips / "d0/crash.wav", np.zeros(12345, np.float32), 12345)
    ran = hlfeat(*args, "-o", tmp_path / "out.json", env=with_crash(tmp_path / "site"))
    assert ran.returncode == 3, ran.stderr
    assert "crashed" in ran.stderr
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "good.json").read_bytes()


def processes(mark: str) -> dict[int, str]:
    """Processes with this in their arguments, and their states."""
    states = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "cmdline").read_text():
                states[int(path.name)] = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
    return {pid: state for pid, state in states.items() if state != "Z"}


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def start_long_run(tmp_path: Path) -> tuple[subprocess.Popen[str], str]:
    """A run of many clips that is at work with a server and two workers, and what is in its arguments alone."""
    folder = tmp_path / "many"
    folder.mkdir()
    soundfile.write(folder / "0.wav", helpers.tone(60.0, 16000), 16000)
    for i in range(1, 400):
        os.link(folder / "0.wav", folder / f"{i}.wav")
    mark = str(tmp_path / "killed")
    command = [sys.executable, "-m", "hlfeat", "extract", folder, "-o", mark, "--workers", "2", "--shard-size", "8"]
    run = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(processes(mark)) == 4 and (tmp_path / "killed/shard-00000.jsonl").exists())
    return run, mark


@pytest.mark.parametrize(
    ("name", "group"), [("SIGKILL", False), ("SIGTERM", False), ("SIGTERM", True), ("SIGINT", False), ("SIGINT", True)]
)
def test_no_process_outlives_the_run(tmp_path, name, group):
    """Whether the run alone gets the signal or, as from a terminal, all of its processes."""
    run, mark = start_long_run(tmp_path)
    number = getattr(signal, name)
    (os.killpg if group else os.kill)(run.pid, number)
    begun = time.monotonic()
    _, errors = run.communicate(timeout=60)
    wait_for(lambda: processes(mark) == {})
    assert time.monotonic() < begun + 20
    assert "Traceback" not in errors
    assert "crashed" not in errors


def test_workers_share_the_memory_of_what_is_loaded(tmp_path):
    """At most 60 MiB of a worker are its own, apart from the clips that it has."""
    run, mark = start_long_run(tmp_path)
    try:
        own = {}
        for pid in processes(mark):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            own[pid] = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
        workers = sorted(own.values())[:-1]  # all but the run's process
        clips = 60 * 16000 * 4 * 6 // 1024  # samples, resampled, and what the filterbank makes of them
        assert max(workers) < 60 * 1024 + clips, own
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.communicate(timeout=60)
