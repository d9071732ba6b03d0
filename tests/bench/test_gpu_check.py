"""scripts/gpu_check.sh runs where nobody sees it fail: here it runs to its end on the CPU, and within its limits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import helpers

SCRIPT = helpers.ROOT / "scripts/gpu_check.sh"
NINE_MINUTES = 540
LIMITS = [int(n) for n in re.findall(r"^(?:allow|bench \S+) (\d+)\b", SCRIPT.read_text(), re.MULTILINE)]
STEPS = ["harmonic", "harmonic-tf32", "frontend", "pipeline-10s", "pipeline-1s", "profile"]

# Notes the limit, and limits nothing. Python notes when it is started without one.
TIMEOUT = '#!/usr/bin/env bash\necho "$3" >> "$NOTES"\nshift 3\nLIMITED=1 exec "$@"\n'
PYTHON = f'#!/usr/bin/env bash\n[[ -n "${{LIMITED-}}" ]] || echo none >> "$NOTES"\nexec "{sys.executable}" "$@"\n'

# Says what it was called with; one bench prints a row and fails, as if it had been stopped.
STUB = """#!/usr/bin/env bash
echo "$*" >> "$NOTES"
case "$*" in
    -c*) echo trial-cpu ;;
    "-m pytest"*) echo passed ;;
    "-m hlfeat bench frontend"*) echo "| a row |"; echo "hlfeat: stopped" >&2; exit 124 ;;
    "-m hlfeat bench"*) echo '{}' > "${@: -1}" ;;
    scripts/gpu_targets.py*) echo "# table"; [[ -e "$2" ]] ;;
esac
"""


@pytest.fixture
def check(tmp_path):
    """Run the script with programs of these names and texts before those of the system."""
    (tmp_path / "bin").mkdir()

    def run(programs: dict[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
        for name, text in programs.items():
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables |= {"PATH": path, "NOTES": str(tmp_path / "notes"), "OMP_NUM_THREADS": "1"}
        command = ["bash", SCRIPT, tmp_path / "results"]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)

    return run


def test_all_limits_together_are_below_nine_minutes():
    assert len(LIMITS) == 6 + len(STEPS)
    assert LIMITS[2] == 180  # the tests
    killing = int(re.findall(r"timeout -k (\d+)", SCRIPT.read_text())[0])
    assert sum(LIMITS) + killing * len(LIMITS) < NINE_MINUTES


def test_the_whole_check_runs_to_its_end_on_a_cpu(check, tmp_path):
    start = time.monotonic()
    programs = {"timeout": TIMEOUT, "any-python": PYTHON}
    result = check(programs, HLFEAT_DEVICE="cpu", HLFEAT_PYTHON="any-python", HLFEAT_WHEELS=str(tmp_path))
    spent = time.monotonic() - start
    assert result.returncode == 0, result.stdout + result.stderr

    results = tmp_path / "results"
    names = {f"trial-cpu-{step}{suffix}" for step in STEPS for suffix in (".json", ".md")}
    assert {p.name for p in results.iterdir()} == names | {"trial-cpu-tests.txt", "trial-cpu-targets.md"}
    for step in STEPS:
        written = json.loads((results / f"trial-cpu-{step}.json").read_text())
        assert written["complete"]
        assert written["rows"]
        heading, _, circumstances = (results / f"trial-cpu-{step}.md").read_text().split("\n", 3)[:3]
        assert heading.startswith(f"# hlfeat bench {step.split('-')[0]} ")
        assert "convolutions in full float32" in circumstances

    table = (results / "trial-cpu-targets.md").read_text()
    assert result.stdout.endswith(table)
    assert "This device is no GPU" in table
    assert all(f"trial-cpu-{step}.json" in table for step in STEPS)
    measured = [line for line in table.splitlines() if line.endswith("| no GPU |")]
    assert [line.split(" |")[0] for line in measured] == [
        "| harmonic convolution / nn.Conv2d, torch operations, forward, float32",
        "| harmonic convolution / nn.Conv2d, torch operations, with backward, float32",
        "| EfficientLEAF 8G-opt/80 / torchaudio log-mel, inference",
        "| EfficientLEAF 8G-opt/80 / torchaudio log-mel, training step",
        "| speed of `extract` / of decoding alone, FLAC clips of 10 s",
        "| speed of `extract` / of decoding alone, FLAC clips of 1 s",
    ]

    # Every step has its limit and what was left over, but for the packages: there are none to unpack.
    limits = [int(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert len(limits) == len(LIMITS) - 1
    for n, limit in enumerate(limits, 2):
        assert sum(LIMITS[:n]) - spent - 1 <= limit <= sum(LIMITS[:n])


def test_a_bench_that_is_stopped_keeps_what_it_printed_and_the_others_run(check, tmp_path):
    results, wheels = tmp_path / "results", tmp_path / "wheels"
    for folder in (results, wheels):
        folder.mkdir()
    (wheels / "a.whl").touch()
    (results / "trial-cpu-frontend.json").write_text("of an older run")
    result = check({"python3": STUB}, HLFEAT_DEVICE="cpu", HLFEAT_WHEELS=str(wheels))
    assert result.returncode == 1
    assert "bench frontend failed, or took too long:\nhlfeat: stopped" in result.stderr
    assert (results / "trial-cpu-targets.md").read_text() == "# table\n"
    text = (results / "trial-cpu-frontend.md").read_text()
    assert text.startswith("# hlfeat bench frontend --seconds 0")
    assert text.endswith("\n\n| a row |\n")
    assert {p.stem for p in results.glob("*.json")} == {f"trial-cpu-{step}" for step in STEPS if step != "frontend"}
    calls = (tmp_path / "notes").read_text().splitlines()
    assert calls[0].startswith("-m pip install -q --no-index --no-deps --no-compile --target ")
    assert calls[0].endswith(f"/packages {wheels}/a.whl")
    assert [call.split()[3] for call in calls if call.startswith("-m hlfeat bench")] == [s.split("-")[0] for s in STEPS]
    assert sum("--tf32" in call.split() for call in calls) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_that_there_is_no_gpu(check, tmp_path):
    result = check({}, HLFEAT_PYTHON=sys.executable, HLFEAT_WHEELS=str(tmp_path))
    assert result.returncode == 1
    assert "no CUDA device here" in result.stderr
    assert not list((tmp_path / "results").iterdir())


def test_scripts_name_files_that_exist():
    for script in (helpers.ROOT / "scripts").glob("*.sh"):
        for path in re.findall(r"(?<![\w/.-])(?:tests|scripts|configs|hlfeat)/[\w./-]+\w", script.read_text()):
            assert (helpers.ROOT / path).exists(), f"{script.name}: {path}"
