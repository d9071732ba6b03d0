"""Conversions that are killed at any moment are finished by the same command, to the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hlfeat.conversion.convert import Request, convert
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import DirectoryLock
from tests.conftest import command
from tests.conversion.folders import add_meta
from tests.extraction.runs import files_below
from tests.extraction.test_kills import Moments, changes

FORMATS = {
    "npy": Request("npy", "float16", 3),
    "pt": Request("pt"),
    "parquet": Request("parquet", shard_size=3),
    "csv": Request("csv", frames=True),
    "kaldi": Request("kaldi"),
    "lhotse": Request("lhotse"),
    "webdataset": Request("webdataset"),
}


@pytest.fixture
def _no_syncing(monkeypatch):
    """A kill of a process loses nothing that it has written: only a failure of the system does."""
    monkeypatch.setattr(os, "fsync", lambda f: None)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.mark.usefixtures("_no_syncing")
@pytest.mark.parametrize("form", FORMATS)
def test_killed_at_every_moment(form, features, tmp_path):
    add_meta(features, lambda i, id_: {"speaker": str(i % 2), "text": id_})
    out, request = tmp_path / "out", FORMATS[form]
    moments = Moments(out, tmp_path / "moment")
    with changes(out, moments.take):
        convert(features, out, request)
    want = files_below(out)
    assert len(want) > 4
    assert not [name for name in want if name.endswith((".tmp", ".lock"))]
    assert len(moments.seen) > 12
    for moment, left in moments:
        check_nothing_torn(left, want, moment)
        shutil.rmtree(out)
        left.rename(out)  # manifests have the folder's path in them
        convert(features, out, request)
        assert files_below(out) == want, moment


def check_nothing_torn(left: Path, want: dict[str, bytes], moment: str) -> None:
    """What has its final name is whole, whenever the conversion was killed."""
    for name, data in files_below(left).items():
        unfinished = name.endswith((".tmp", ".lock")) or ".tmp/" in name or name == "_conversion.json"
        if not unfinished and name != "failures.jsonl":
            assert data == want[name], f"{moment}: {name}"


@pytest.mark.parametrize("form", FORMATS)
def test_processes_that_are_killed(form, features, tmp_path):
    """With the real signal, the installed command, a moment after some of the nine shards are there."""
    add_meta(features, lambda i, id_: {"speaker": str(i % 2)})
    options = ["--format", form, "--shard-size", "1", "-q", *(["--frames"] if form == "csv" else [])]
    arguments = [command(), "convert", features, "-o", tmp_path / "new", *options]
    dice, kills = random.Random(form), 0
    for seen in (1, 4, 3):
        kills += killed(arguments, signal.SIGKILL, seen, dice.uniform(0, 0.004)) == -signal.SIGKILL
    assert kills >= 2
    subprocess.run(arguments, check=True, capture_output=True)
    killed_files = files_below(tmp_path / "new")
    shutil.rmtree(tmp_path / "new")
    subprocess.run(arguments, check=True, capture_output=True)
    assert killed_files == files_below(tmp_path / "new")


def killed(arguments: list[object], number: int, seen: int, seconds: float) -> int:
    """Run a command, and send it a signal so many seconds after it has printed a number of lines. Its exit status."""
    process = subprocess.Popen([*map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(seen):
        process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.parametrize("form", ["pt", "csv"])
def test_an_interruption_is_told_and_continued(form, features, tmp_path):
    options = ["--format", form, "--shard-size", "1", *(["--frames"] if form == "csv" else [])]
    arguments = [command(), "convert", features, "-o", tmp_path / "new", *options]
    codes = []
    for _ in range(5):
        codes.append(killed(arguments, signal.SIGINT, 2, 0))
        if codes[-1] == 130:
            break
        shutil.rmtree(tmp_path / "new")
    assert codes[-1] == 130
    assert not list((tmp_path / "new").glob("*.tmp"))
    assert not list((tmp_path / "new").glob("*.lock"))
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 1 <= len(result.stdout.splitlines()) <= 7
    assert len(list((tmp_path / "new").glob(f"*.{form}"))) == 9


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small file system needs root")
@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_is_one_line(form, features, tmp_path, invoke):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    frames = ["--frames"] if form == "csv" else []
    arguments = ["convert", features, "-o", disk / "new", "--format", form, *frames]
    try:
        result = invoke(*arguments, "-q")
        assert result.returncode == 1, result.stderr
        assert "no space left on the disk" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert not list((disk / "new").glob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert invoke(*arguments).returncode == 0
        after = files_below(disk / "new")
        shutil.rmtree(disk / "new")
        assert invoke(*arguments).returncode == 0
        assert after == files_below(disk / "new")
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_one_conversion_at_a_time(features, tmp_path, invoke):
    (tmp_path / "new").mkdir()
    lock = DirectoryLock(Layout(tmp_path / "new"))
    try:
        result = invoke("convert", features, "-o", tmp_path / "new", "--format", "webdataset")
    finally:
        lock.release()
    assert result.returncode == 1
    assert "another run is writing here" in result.stderr
