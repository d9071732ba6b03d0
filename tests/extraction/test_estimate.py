"""What -n says of size and room: near what a run writes, whatever is broken, and a warning where it does not fit."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple

import numpy as np
import pytest
import soundfile

from hlfeat.extraction import estimate
from tests import helpers

SETTINGS = ["--set", "frontend.n_filters=8", "--set", "frontend.num_groups=4"]
Usage = namedtuple("Usage", "total used free")


def size_of(text: str) -> float:
    """The bytes and seconds of the line about them."""
    size, unit = re.search(r"hlfeat: about ([\d.]+) (\w+) for about ", text).groups()
    return float(size) * {"bytes": 1, "kB": 1e3, "MB": 1e6}[unit]


def seconds_of(text: str) -> float:
    number, unit = re.search(r"for about ([\d.]+) (s|min|h) of audio", text).groups()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--pool", "mean+std"],
        ["--pool", "window:0.5,0.25", "--dtype", "float16"],
        ["--set", "audio.channels=each", "--format", "pt"],
        ["-c", "log-mel", "--set", "stack=[{layer: conv, out_channels: 3, kernel: [1, 3], stride: [1, 2]}]"],
    ],
    ids=" ".join,
)
def test_it_is_what_a_run_writes(invoke, tmp_path, options):
    helpers.good_clips(tmp_path / "clips", 12)
    (tmp_path / "clips/text.wav").write_bytes(b"this is text" * 9)
    (tmp_path / "clips/gone.wav").symlink_to("nowhere")
    settings = SETTINGS if "-c" not in options else []
    command = ("extract", "clips", "-o", "out", *settings, *options)
    said = invoke(*command, "-n", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert not (tmp_path / "out").exists()
    invoke(*command, "-q", cwd=tmp_path)
    (data,) = (tmp_path / "out").glob("shard-*.pt" if "pt" in options else "shard-*.npy")
    written = np.load(data).nbytes if data.suffix == ".npy" else data.stat().st_size
    assert size_of(said.stderr) == pytest.approx(written, rel=0.05)
    facts = invoke("inspect", "out", cwd=tmp_path).stdout
    number, unit = re.search(r"clips +\d+, ([\d.]+) (s|min)", facts).groups()
    assert seconds_of(said.stderr) == pytest.approx(float(number) * (60 if unit == "min" else 1), rel=0.05)
    again = invoke(*command, "-n", cwd=tmp_path).stderr
    assert re.search(r", [\d.]+ k?B?(bytes)? of which are there; [\d.]+ \w+ are free", again)


def test_a_sample_of_many_clips(invoke, tmp_path, monkeypatch):
    """Every tenth of 50 clips is looked at; the last is as long as all others."""
    monkeypatch.setattr(estimate, "MOST_HEADERS", 6)
    opened = []
    reader = estimate.Reader
    monkeypatch.setattr(estimate, "Reader", lambda clip, channels: (opened.append(clip.id), reader(clip, channels))[1])
    (tmp_path / "clips").mkdir()
    for i in range(51):
        soundfile.write(tmp_path / "clips" / f"{i:02d}.wav", np.zeros(1600 if i < 50 else 80000), 16000)
    (tmp_path / "clips" / "10.wav").write_bytes(b"")
    said = invoke("extract", "clips", "-n", "-o", "out", *SETTINGS, cwd=tmp_path).stderr
    assert opened == ["00.wav", "10.wav", "20.wav", "30.wav", "40.wav", "50.wav"]
    assert "; from 6 headers" in said
    expected = 51 * (5 / 6) * (4 * 0.1 + 5) / 5
    assert seconds_of(said) == pytest.approx(expected, rel=0.02)
    assert size_of(said) == pytest.approx(expected * 100 * 2 * 8 * 4, rel=0.02)


def test_what_does_not_fit(invoke, clips, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (asked.append(path), Usage(10**9, 10**9, 5000))[1])
    done = invoke("extract", clips, "-n", "-o", tmp_path / "a/b/out", *SETTINGS)
    assert done.returncode == 0
    assert asked == [tmp_path]
    assert "; 5 kB are free" in done.stderr
    assert re.search(r"hlfeat: .*/a/b/out: about [\d.]+ kB do not fit, 5 kB are free\n", done.stderr)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 10**9))
    assert "do not fit" not in invoke("extract", clips, "-n", "-o", tmp_path / "out", *SETTINGS).stderr


def test_clips_that_are_all_broken(invoke, tmp_path):
    """A header of no clip was read, so none can say anything."""
    helpers.broken_clips(tmp_path / "broken")
    done = invoke("extract", tmp_path / "broken" / "text.wav", "-n", "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "none of 1 clip can be opened" in done.stderr


def test_parts_and_pitch_tracks(invoke, clips, tmp_path):
    whole = invoke("pitch", clips, "-n", "-o", tmp_path / "out").stderr
    part = invoke("pitch", clips, "-n", "-o", tmp_path / "out", "--part", "1/2").stderr
    assert 0 < size_of(part) < size_of(whole)
    invoke("pitch", clips, "-q", "-o", tmp_path / "out")
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.f0.csv"))
    assert size_of(whole) == pytest.approx(written, rel=0.2)


def test_what_is_there(invoke, clips, tmp_path):
    """Several devices' files count; with --overwrite none does, as they make room."""
    out = tmp_path / "out"
    command = ["extract", clips, "-o", out, *SETTINGS]
    for part in ("1/2", "2/2"):
        assert invoke(*command, "--part", part).returncode == 0
    assert " of which are there" in invoke(*command, "-n", "--device", "cpu,cpu").stderr
    assert " of which are there" not in invoke(*command, "-n", "--overwrite").stderr


def test_a_plan_that_a_run_would_refuse_is_refused(invoke, clips, tmp_path):
    out = tmp_path / "out"
    command = ["extract", clips, "-o", out, *SETTINGS]
    assert invoke(*command, "--part", "1/2").returncode == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    for more in ([], ["--part", "1/3"], ["--part", "2/2", "--set", "seed=3"], ["--part", "2/2", "--overwrite"]):
        plan, run = invoke(*command, *more, "-n"), invoke(*command, *more)
        assert (plan.returncode, plan.stderr) == (run.returncode, run.stderr) != (0, "")
    assert invoke(*command, "--part", "2/2", "-n").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_plan_for_machines(invoke, clips, tmp_path):
    done = invoke("extract", clips, "-o", tmp_path / "out", *SETTINGS, "-n", "--log-format", "json")
    plan, room = map(json.loads, done.stderr.splitlines())
    assert (plan["event"], plan["clips"]) == ("plan", 12)
    assert room["bytes"] > 0


def test_clips_that_failed_are_not_done(invoke, clips, tmp_path):
    (clips / "d0/broken.wav").write_bytes(b"")
    command = ["extract", clips, "-o", tmp_path / "out", *SETTINGS]
    invoke(*command)
    assert "hlfeat: 13 of 13 clips are done already; 1 of them failed\n" in invoke(*command).stderr
