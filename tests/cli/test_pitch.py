"""hlfeat pitch as a process: streams, exit codes, one-line errors, signals, full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import soundfile

from tests import helpers
from tests.cli.test_cli import failed, many
from tests.conftest import command
from tests.extraction.runs import contents

CHEAP = ["-c", "log-mel", "--set", "frontend.n_filters=40"]  # one channel, whose rows have frequencies
SLOW = [*CHEAP, "--set", "output.shard_size=4", "--workers", "2"]


def csv(out: Path) -> list[str]:
    return sorted(str(p.relative_to(out)) for p in out.rglob("*.f0.csv"))


def test_a_folder_from_start_to_end(hlfeat, clips, tmp_path):
    codes = helpers.broken_clips(clips / "broken")
    result = hlfeat("pitch", clips, "-o", tmp_path / "out", *CHEAP)
    assert result.returncode == 3, result.stderr
    assert "12 clips, " in result.stderr
    assert f"{len(codes)} clips failed" in result.stderr
    out = tmp_path / "out"
    assert sorted(result.stdout.split(f"{out}/")[1:]) == [f"{name}\n" for name in csv(out)]
    failures = [json.loads(line) for line in (out / "failures.jsonl").open()]
    assert {f["id"]: f["code"] for f in failures} == {f"broken/{name}": code for name, code in codes.items()}
    again = hlfeat("pitch", clips, "-o", out, *CHEAP)
    assert (again.returncode, again.stdout) == (3, "")
    assert f"{12 + len(codes)} of {12 + len(codes)} clips are done already" in again.stderr
    assert hlfeat("inspect", out, "--verify").returncode == 0
    assert "  tracks " in hlfeat("inspect", out).stdout


def test_what_is_wrong_with_the_call_is_one_line(invoke, clips, tmp_path):
    out = tmp_path / "out"
    failed(invoke("pitch", clips, "-o", out, "-c", "eleaf-8g-opt"), 2, "eleaf-8g-opt.yaml:4: frontend must have one")
    refused = invoke("pitch", clips, "-o", out, *CHEAP, "--set", "output.pool=max")
    failed(refused, 2, "--set output.pool=max: output.pool must be null for pitch tracks, got max")
    failed(invoke("pitch", clips, "-o", "", *CHEAP), 2, "-o: expected a folder for the output")
    failed(invoke("pitch", "-o", out, *CHEAP), 2, "expected audio files, folders, lists or a --manifest, got none")
    assert not out.exists()
    assert invoke("pitch", clips, "-o", out, *CHEAP, "-q").returncode == 0
    failed(invoke("extract", clips, "-o", out, "-c", "log-mel"), 2, "holds pitch tracks, not features")
    failed(invoke("pitch", clips, "-o", out, *CHEAP, "--viterbi"), 2, "(pitch.viterbi differ); choose another folder")
    failed(invoke("stats", out, "-o", tmp_path / "s.json"), 2, "not a feature directory: it holds pitch tracks")
    failed(invoke("plot", out, "-o", tmp_path / "s.png"), 1, "holds pitch tracks, a .f0.csv for each clip")
    assert invoke("pitch", clips, "-o", out, *CHEAP, "--viterbi", "--overwrite", "-q").returncode == 0


def test_inspect_prints_every_mismatch(invoke, clips, tmp_path):
    out = tmp_path / "out"
    assert invoke("pitch", clips, "-o", out, *CHEAP, "--set", "output.shard_size=3", "-q").returncode == 0
    failed(invoke("inspect", out, "--bands"), 2, f"--bands: {out} holds pitch tracks, which have no bands")
    first, second, third, _ = sorted(out.glob("shard-*.jsonl"))
    for index in (first, third):
        index.write_bytes(index.read_bytes()[:-20])
    track = out / json.loads(second.read_text().splitlines()[2])["shard"]
    track.write_text("edited")
    result = invoke("inspect", out, "--verify")
    starts = [f"{first}: damaged: line 3: ", f"{track}: expected ", f"{third}: damaged: line 3: "]
    lines = result.stdout.splitlines()
    assert (result.returncode, len(lines), result.stderr) == (1, 3, "")
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines
    result = invoke("inspect", out, "--verify", "--json")
    assert (result.returncode, json.loads(result.stdout)) == (1, {"folder": str(out), "off": lines})


def test_overwriting_after_an_index_was_damaged(invoke, clips, tmp_path):
    out = tmp_path / "out"
    assert invoke("pitch", clips, "-o", out, *CHEAP, "-q").returncode == 0
    want = contents(out)
    index = out / "shard-00000.jsonl"
    index.write_bytes(index.read_bytes()[:-20])
    failed(invoke("pitch", clips, "-o", out, *CHEAP), 1, "shard-00000.jsonl: damaged: line 12: ")
    assert invoke("pitch", clips, "-o", out, *CHEAP, "-q", "--overwrite").returncode == 0
    assert contents(out) == want


def test_dry_run_writes_nothing(invoke, clips, tmp_path):
    result = invoke("pitch", clips, "-o", tmp_path / "out", *CHEAP, "-n", "--viterbi")
    assert result.returncode == 0
    expected = "12 clips; pitch from 40 rows of salience along the best path, 100 frames a second; nothing was written"
    assert expected in result.stderr
    assert not (tmp_path / "out").exists()


def test_stopping_on_errors(invoke, clips, tmp_path):
    helpers.broken_clips(clips / "broken")
    stopped = invoke("pitch", clips, "-o", tmp_path / "a", *CHEAP, "--on-error", "stop", "-q")
    assert (stopped.returncode, "--on-error: stopped at" in stopped.stderr) == (1, True)
    stopped = invoke("pitch", clips, "-o", tmp_path / "b", *CHEAP, "--max-failures", 2, "-q")
    assert (stopped.returncode, "--max-failures: more than 2 clips failed" in stopped.stderr) == (1, True)


def test_parts_make_the_whole(invoke, clips, tmp_path):
    assert invoke("pitch", clips, "-o", tmp_path / "whole", *CHEAP).returncode == 0
    for part in ("2/2", "1/2"):
        assert invoke("pitch", clips, "-o", tmp_path / "parts", *CHEAP, "--part", part).returncode == 0
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert len(csv(tmp_path / "parts")) == 12
    for name in csv(tmp_path / "whole"):
        assert parts[name] == whole[name]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(hlfeat, tmp_path, how):
    folder = many(tmp_path / "clips", 60)
    assert hlfeat("pitch", folder, "-o", tmp_path / "whole", *SLOW).returncode == 0
    arguments = [command(), "pitch", folder, "-o", tmp_path / "out", *SLOW]
    process = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().endswith("0000.wav.f0.csv\n")  # at work
    process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130), errors
    if how != signal.SIGKILL:
        assert "the same command goes on from there" in errors
        assert not list((tmp_path / "out").rglob("*.tmp"))
        assert not list((tmp_path / "out").glob("*.lock"))
    done = len(csv(tmp_path / "out"))
    assert 4 <= done < 60
    result = hlfeat("pitch", folder, "-o", tmp_path / "out", *SLOW)
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) in (60 - done // 4 * 4, 60 - done)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small file system needs root")
def test_a_full_disk(hlfeat, tmp_path):
    folder = many(tmp_path / "clips", 60)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        result = hlfeat("pitch", folder, "-o", disk / "out", *SLOW, "-q")
        assert result.returncode == 1
        assert "no space left on the disk; what is finished is kept" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert not list((disk / "out").rglob("*.tmp"))
        assert hlfeat("pitch", folder, "-o", tmp_path / "whole", *SLOW).returncode == 0
        whole = contents(tmp_path / "whole")
        there = csv(disk / "out")
        assert 4 <= len(there) < 60
        assert {name: (disk / "out" / name).read_bytes() for name in there} == {name: whole[name] for name in there}
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert hlfeat("pitch", folder, "-o", disk / "out", *SLOW).returncode == 0
        assert contents(disk / "out") == whole
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_a_list_whose_paths_lead_elsewhere(invoke, tmp_path):
    for name in ("a/x.wav", "b/x.wav"):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, helpers.tone(0.2, 16000), 16000)
    (tmp_path / "below").mkdir()
    (tmp_path / "below/list.txt").write_text(f"../a/x.wav\n{tmp_path}/b/x.wav\n../none.wav\n")
    result = invoke("pitch", "list.txt", "-o", "out", *CHEAP, cwd=tmp_path / "below")
    assert result.returncode == 3
    assert csv(tmp_path / "below/out") == sorted(["a/x.wav.f0.csv", f"{tmp_path}/b/x.wav.f0.csv"[1:]])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "below"]
