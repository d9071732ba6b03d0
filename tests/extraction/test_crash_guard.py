"""A decoder that crashes costs one clip and one run of the command, not the whole job."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hlfeat.audio.clip import Clip, Span
from hlfeat.errors import ClipError
from hlfeat.extraction.crash_guard import CrashGuard
from hlfeat.extraction.decode_probe import probe

# what every Python process does first that finds it on its path: reading audio of 12,345 Hz is the end of it
CRASH = """
import signal, soundfile
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


def test_the_same_command_goes_on_without_the_clip(clips, tmp_path, hlfeat):
    args = ["extract", clips, "-c", "log-mel", "--shard-size", 4, "--workers", 2]
    assert hlfeat(*args, "-o", tmp_path / "good").returncode == 0
    soundfile.write(clips / "d0/crash.wav", np.zeros(12345, np.float32), 12345)
    env, out = with_crash(tmp_path / "site"), tmp_path / "out"
    assert hlfeat(*args, "-o", out, env=env).returncode == -signal.SIGSEGV
    assert (out / "hlfeat.busy").exists()
    for more in ([], [], ["--retry-failed"]):
        ran = hlfeat(*args, "-o", out, *more, env=env)
        assert ran.returncode == 3, ran.stderr
        (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
        assert (failure["id"], failure["code"]) == ("d0/crash.wav", "crashed")
        assert "SIGSEGV" in failure["message"]
        assert files(out) == files(tmp_path / "good")


def test_what_is_being_read_outlives_the_process(tmp_path, monkeypatch):
    path, clip, other = tmp_path / "b", Clip("a\udc80", "x"), Clip("b", "y")
    asked: list[str] = []
    monkeypatch.setattr("hlfeat.extraction.crash_guard.probe", lambda clip, _: asked.append(clip.id))
    with CrashGuard(path) as busy:
        with busy.reading(clip, "mix"):
            left = path.read_bytes()
        assert set(path.read_bytes()) == {0}
    assert not path.exists()
    path.write_bytes(left)
    with CrashGuard(path) as busy:
        assert set(path.read_bytes()) > {0}  # until the run is over
        for c in (other, clip, clip):
            with busy.reading(c, "mix"):
                pass
    assert asked == [clip.id]


def test_more_at_once_than_there_are_places(tmp_path):
    with CrashGuard(tmp_path / "b") as busy:
        gate, entered = threading.Event(), threading.Semaphore(0)

        def read(n: int) -> None:
            with busy.reading(Clip(str(n), "x"), "mix"):
                entered.release()
                gate.wait(10)

        threads = [threading.Thread(target=read, args=(n,)) for n in range(100)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert entered.acquire(timeout=10)
        gate.set()
        for thread in threads:
            thread.join()
        assert set((tmp_path / "b").read_bytes()) == {0}


@pytest.mark.parametrize("name", ["SIGABRT", "SIGKILL"])
def test_a_process_that_is_killed_from_outside_says_nothing_about_the_clip(tmp_path, monkeypatch, name):
    soundfile.write(tmp_path / "a.wav", np.zeros(100, np.float32), 12345)
    monkeypatch.setenv("PYTHONPATH", with_crash(tmp_path / "site", name)["PYTHONPATH"])
    if name == "SIGKILL":
        probe(Clip("a", str(tmp_path / "a.wav")), "mix")
    else:
        with pytest.raises(ClipError, match=name):
            probe(Clip("a", str(tmp_path / "a.wav")), "mix")


def test_a_member_of_an_archive_is_read_there_too(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(100, np.float32), 12345)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"x" * 10 + data)
    info = (tmp_path / "a.tar").stat()
    span = Span("a.wav", 10, len(data), (info.st_size, info.st_mtime_ns))
    monkeypatch.setenv("PYTHONPATH", with_crash(tmp_path / "site")["PYTHONPATH"])
    with pytest.raises(ClipError, match="SIGSEGV"):
        probe(Clip("a", str(tmp_path / "a.tar"), span=span), 0)
