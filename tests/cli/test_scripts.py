"""The example scripts around the command, with a stand-in for it; tests/docs/test_recipes.py runs the real one."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests import helpers

SCRIPTS = helpers.ROOT / "scripts"

# Says what it was called with, one word a line, and what it read; then names two shards.
HLFEAT = """#!/usr/bin/env bash
printf '%s\\n' "$@" > words
[[ " $* " != *" -0 - "* ]] || cat > list
printf '%s\\n' 'my features/shard-00000.npy' 'my features/shard-00001.npy'
exit "${STATUS-0}"
"""


@pytest.fixture
def script(tmp_path):
    """Run one of the scripts in a folder of its own, with only what SLURM would set."""
    (tmp_path / "hlfeat").write_text(HLFEAT)
    (tmp_path / "hlfeat").chmod(0o755)

    def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
        command = ["bash", str(SCRIPTS / name), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_task_of_an_array_becomes_the_command(script, tmp_path):
    task = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "8"}
    assert script("slurm_array.sh", "my list.txt", "my features", "-c", "log-mel", **task).returncode == 0
    words = ["extract", "my list.txt", "-o", "my features", "--part", "auto", "--workers", "8", "-c", "log-mel"]
    assert (tmp_path / "words").read_text().splitlines() == words
    assert script("slurm_array.sh", "a", "b", SLURM_ARRAY_TASK_ID="1", STATUS="3").returncode == 3
    assert (tmp_path / "words").read_text().splitlines() == ["extract", "a", "-o", "b", "--part", "auto"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slurm_array.sh", "list"], "usage: sbatch"),
        (["slurm_array.sh", "list", "out"], "error: expected to be a task of a SLURM array"),
        (["find_extract.sh", "clips"], "usage: "),
    ],
)
def test_wrong_calls(script, words, message):
    result = script(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(message)


def test_what_is_found_goes_in_sorted_and_shards_go_to_the_command(script, tmp_path):
    for name in ("b.WAV", "a\nb.flac", "c.txt", "-d.mp3"):
        (tmp_path / "clips" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "clips" / name).touch()
    result = script("find_extract.sh", "clips", "my features", "printf", "%s;", LC_ALL="C")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "my features/shard-00000.npy;my features/shard-00001.npy;"
    assert (tmp_path / "list").read_text().split("\0") == ["clips/-d.mp3", "clips/a\nb.flac", "clips/b.WAV", ""]
    some_failed = script("find_extract.sh", "clips", "my features", "true", STATUS="3")
    assert (some_failed.returncode, "my features/failures.jsonl says why" in some_failed.stderr) == (3, True)
    assert script("find_extract.sh", "clips", "my features", "false").returncode == 123


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    subprocess.run(["shellcheck", *map(str, SCRIPTS.glob("*.sh"))], check=True)
