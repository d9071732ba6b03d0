"""The README's recipes work as they stand: all blocks of them are run, on a few short clips of the names they use."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hlfeat
from hlfeat.inputs.collect import collect
from tests import helpers

ROOT = Path(__file__).parents[1]
RUN, SHOWN = {"sh", "python"}, {"text"}  # languages of blocks that are run, and that only show something

# What a machine without a GPU or patience puts in the place of what a recipe says; the options stay.
INSTEAD = {"--device cuda:0,cuda:1": "--device cpu,cpu", "--array=1-16": "--array=1-2", "--epochs 20": "--epochs 2"}

# SLURM's part: each task of the array, one after the other, with what SLURM tells it.
SBATCH = """#!/usr/bin/env bash
set -eu
[[ "$1" == --array=1-* ]]
export SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT="${1#--array=1-}" SLURM_CPUS_PER_TASK=1
shift
for ((task = 1; task <= SLURM_ARRAY_TASK_COUNT; task++)); do
    SLURM_ARRAY_TASK_ID="$task" bash "$@"
done
"""


def recipes(heading: str) -> dict[str, list[tuple[str, str]]]:
    """Blocks of each part of a section of the README, with their languages."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {heading}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    parts = re.split(r"^### (.*)\n", section, flags=re.MULTILINE)
    assert "```" not in parts[0]
    return {
        title: re.findall(r"^```(\w*)\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


RECIPES, USE = recipes("Recipes"), recipes("Use")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with what the recipes find in theirs; the current one."""
    for name, seconds in {"clips/first": 1.5, "clips/more/second": 0.7, "clips/more/a third": 1.2}.items():
        write(tmp_path / f"{name}.flac", seconds)
    for word, freq in {"no": 300, "yes": 500}.items():
        for i in range(4):
            write(tmp_path / f"words/{word}/{i}.wav", 0.4, freq + 9 * i)
    write(tmp_path / "long/meeting.flac", 21)
    (tmp_path / "archives").mkdir()
    with tarfile.open(tmp_path / "archives/000.tar", "w") as tar:
        for path in sorted((tmp_path / "clips").rglob("*.flac")):
            tar.add(path, path.name)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(SBATCH)
    (tmp_path / "bin/sbatch").chmod(0o755)
    ours = [str(tmp_path / "bin"), str(Path(sys.executable).parent)]
    monkeypatch.setenv("PATH", os.pathsep.join([*ours, os.environ["PATH"]]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, seconds: float, freq: float = 440.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, helpers.tone(seconds, 16000, freq), 16000)


def follow(title: str) -> str:
    """Run all blocks of a recipe, in order; what they print."""
    printed = io.StringIO()
    blocks = RECIPES.get(title) or USE[title]
    assert {language for language, _ in blocks} <= RUN | SHOWN
    for language, block in blocks:
        for said, done in INSTEAD.items():
            block = block.replace(said, done)
        if language == "sh":
            result = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block], capture_output=True, text=True, timeout=300, check=False
            )
            assert result.returncode == 0, f"{block}\n{result.stderr}"
            printed.write(result.stdout)
        elif language == "python":
            with redirect_stdout(printed):
                exec(compile(block, title, "exec"), {"__name__": "recipe"})
    return printed.getvalue()


def same(*folders: str) -> None:
    """The folders hold the same features of the same clips."""
    first, *others = map(hlfeat.FeatureStore, folders)
    assert len(first) == 3
    for other in others:
        assert other.ids() == first.ids()
        assert all(np.array_equal(features, other[id_]) for id_, features in first)


def test_a_folder_of_audio(place):
    printed = follow("A folder of audio")
    assert "more/second.flac (70, 2, 80) 0.7" in printed
    assert len(hlfeat.FeatureStore("features")) == 3


def test_a_million_files(place):
    printed = follow("A million files")
    same("features-parts", "features-slurm", "features-gpus", "features-found")
    assert all((place / f"features-slurm/shard-p{i}of2-00000.npy").exists() for i in (1, 2))
    assert len(hlfeat.FeatureStore("features-tar")) == 3
    assert "features-parts/shard-p2of2-00000.npy" in printed.split()
    digest, shard = Path("sums.txt").read_text().split()
    assert (len(digest), shard) == (64, "features-found/shard-00000.npy")


def test_train_then_extract(place):
    follow("Train, then extract")
    learnt, before = (hlfeat.FeatureStore(folder)[0][1] for folder in ("features-trained", extracted()))
    assert learnt.shape == before.shape
    assert not np.array_equal(learnt, before)
    assert Path("learnt.png").read_bytes().startswith(b"\x89PNG")


def test_windows_of_long_recordings(place):
    follow("Windows of long recordings")
    windows = hlfeat.FeatureStore("windows")
    assert windows.ids() == [f"long/meeting.flac#t={start},{start + 10}" for start in (0, 5, 10)]
    assert set(windows.frames) == {1000}
    assert hlfeat.FeatureStore("features-long")[0][1].dtype == np.float16


def test_features_into_a_dataloader(place):
    extracted()
    follow("Features into a DataLoader")


def extracted(clips: str = "clips", out: str = "features") -> str:
    """The folder of features that a recipe takes for granted."""
    hlfeat.extract(hlfeat.load_config("eleaf-default"), collect([clips], io.BytesIO()), Path(out))
    return out


def test_the_block_in_python_runs(place):
    write(place / "demo/strings/harp.ogg", 3)
    extracted("demo", "demo/features")
    follow("In Python")
    assert Path("w.pt").exists()


def test_every_recipe_has_a_test():
    names = {re.sub(r"\W+", "_", title.lower()) for title in RECIPES}
    others = {"the_block_in_python_runs", "every_recipe_has_a_test"}
    assert names == {name[5:] for name in globals() if name.startswith("test_")} - others
