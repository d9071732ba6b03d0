"""A folder in which the pages' commands find what they name: made-up clips and features of them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.docs.markdown import ROOT

# SLURM's part: the tasks of an array one after the other, each with the variables that SLURM sets.
SBATCH = """#!/usr/bin/env bash
set -eu
[[ "$1" == --array=1-* ]]
export SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT="${1#--array=1-}" SLURM_CPUS_PER_TASK=1
shift
for ((task = 1; task <= SLURM_ARRAY_TASK_COUNT; task++)); do
    SLURM_ARRAY_TASK_ID="$task" bash "$@"
done
"""
UPLOAD = '#!/bin/sh\ntest -f "$1"\n'  # the reader's own command


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory, command_server: Path) -> Path:
    """A folder with `hlfeat`, and stand-ins for programs that a reader has and this machine has not."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "hlfeat").symlink_to(command_server / "hlfeat")
    for name, text in {"sbatch": SBATCH, "upload": UPLOAD}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """Everything that the pages take for granted. To be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    subprocess.run([sys.executable, "scripts/demo_clips.py", "clips"], cwd=folder, check=True, capture_output=True)
    make_broken(folder / "broken", folder / "clips")
    shutil.rmtree(folder / "clips/broken")  # a page's commands succeed, unless it says otherwise
    for word, frequency in {"no": 300, "yes": 500}.items():
        for i in range(4):
            write_tone(folder / f"words/{word}/{i}.wav", 0.4, frequency + 9 * i)
    (folder / "words.csv").write_text(words_table())
    (folder / "meta.csv").write_text(meta_table())
    make_notes(folder)
    for i, singer in enumerate(["ann", "bob", "eve", "jim"]):
        write_tone(folder / f"songs/{singer}/0.wav", 0.4, 220 + 20 * i)
        (folder / f"songs/{singer}/0.f0.csv").write_text(track_table(220 + 20 * i, 40))
    write_tone(folder / "long/meeting.flac", 21, 440)
    make_field(folder)
    make_album(folder)
    (folder / "archives").mkdir()
    with tarfile.open(folder / "archives/000.tar", "w") as tar:
        for path in sorted((folder / "clips").rglob("*.flac")):
            tar.add(path, path.relative_to(folder / "clips"))
    shutil.copytree(ROOT / "tests/golden/checkpoint", folder / "checkpoint")
    subprocess.run([programs / "hlfeat", "extract", "-q", "clips", "-o", "features"], cwd=folder, check=True)
    return folder


@pytest.fixture
def reader(world: Path, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world as the current folder, and a PATH that begins with the programs."""
    folder = tmp_path / "reader"
    shutil.copytree(world, folder, symlinks=True)
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.chdir(folder)
    return folder


def words_table() -> str:
    """Of each word, a clip of each of four speakers."""
    speakers = [("ann", "train"), ("bob", "train"), ("eve", "valid"), ("jim", "test")]
    rows = [f"{w}/{i}.wav,{w},{who},{part}\n" for w in ("no", "yes") for i, (who, part) in enumerate(speakers)]
    return "path,label,speaker,split\n" + "".join(rows)


def meta_table() -> str:
    """The same clips under other names of columns, with folds."""
    return "filename;fold;category\n" + "".join(f"{w}/{i}.wav;{i + 1};{w}\n" for w in ("no", "yes") for i in range(4))


def make_notes(folder: Path) -> None:
    """Three notes of each of four instruments, and a table of their frequencies."""
    rows = ["path,frequency,instrument\n"]
    for instrument in ("flute", "horn", "oboe", "viola"):
        for i, frequency in enumerate((440, 550, 660)):
            write_tone(folder / f"notes/{instrument}/{i}.wav", 0.4, frequency)
            rows.append(f"{instrument}/{i}.wav,{frequency},{instrument}\n")
    (folder / "notes.csv").write_text("".join(rows))


def make_field(folder: Path) -> None:
    """Recordings at 48 kHz, one of which is cut off."""
    for path in ("field/day-1.flac", "field/day-2.flac", "field/day-3.flac", "field-next/day-4.flac"):
        write_tone(folder / path, 11, 9000, rate=48000)
    data = (folder / "field/day-3.flac").read_bytes()
    (folder / "field/day-3.flac").write_bytes(data[: len(data) // 2])


def make_album(folder: Path) -> None:
    """Two recordings, and a table of their sections."""
    for name, frequency in {"one": 220, "two": 330}.items():
        write_tone(folder / f"album/{name}.flac", 10, frequency, rate=44100)
    sections = [("one", 0, 4, "intro"), ("one", 4, 10, "verse"), ("two", 2, 8, "verse")]
    rows = [f"album/{name}.flac,{start},{end},{section}\n" for name, start, end, section in sections]
    (folder / "album.csv").write_text("path,start,end,section\n" + "".join(rows))


def track_table(frequency: float, frames: int) -> str:
    """A track of one frequency; its first frame has no pitch."""
    rows = [f"{n / 100:.3f},{frequency if n else 0:.3f},{0.9 if n else 0.1}\n" for n in range(frames)]
    return "time,frequency,confidence\n" + "".join(rows)


def write_tone(path: Path, seconds: float, frequency: float, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(0).normal(size=len(t))
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * t) + 0.01 * noise, rate)


def make_broken(folder: Path, clips: Path) -> None:
    """A good clip and some that cannot be used, each for another reason."""
    folder.mkdir()
    shutil.copy(clips / "voice/vowels.wav", folder / "good.wav")
    shutil.copy(clips / "broken/cut-short.flac", folder / "cut.flac")
    wav = (folder / "good.wav").read_bytes()
    (folder / "lying-length.wav").write_bytes(wav[:40] + struct.pack("<I", 0x7FFFFFF0) + wav[44:])
    (folder / "empty.wav").touch()
    (folder / "notes.txt").write_text("not audio")
    samples = np.full(2000, np.nan)
    samples[:1000] = 0
    soundfile.write(folder / "nan.wav", samples, 16000, subtype="FLOAT")
