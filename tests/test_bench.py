"""Benchmarks: that they compare what they say, and that their files can be read. Never how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hlfeat import bench, bench_harmonic
from hlfeat.bench_harmonic import COLUMNS, Setting

CPU = torch.device("cpu")
TINY = [Setting("3", 16, 12, 3, 1), Setting("80 bands, anchor 4", 16, 20, 5, 4)]


def test_every_candidate_takes_its_turn_and_slow_ones_run_once():
    order = []
    calls = {"a": lambda: order.append("a"), "slow": lambda: (order.append("slow"), time.sleep(0.6))}
    taken = bench.race(calls, CPU, seconds=0.5, least=4)
    assert len(taken["slow"].seconds) == 1
    assert taken["slow"].seconds[0] >= 0.6
    assert len(taken["a"].seconds) >= 4
    assert order[:3] == ["a", "slow", "a"]


def test_candidates_compute_the_same_thing():
    for setting in TINY:
        x, weight, bias = bench_harmonic.tensors(setting, 2, CPU)
        calls = bench_harmonic.candidates(setting, x, weight, bias)
        first = next(n for n in calls if n.startswith("ours"))
        torch.testing.assert_close(calls["lowering"](), calls[first](), rtol=1e-4, atol=1e-4)
        if setting.name == "3":  # whole rows: deformable convolution's border is of no matter
            torch.testing.assert_close(calls["deformable"](), calls[first](), rtol=1e-4, atol=1e-4)
        assert calls["Conv2d"]().shape == calls[first]().shape


@pytest.fixture(scope="module")
def rows():
    return [row for s in TINY for row in bench_harmonic.measure(s, CPU, 2, 0.01)]


def test_rows_are_complete_and_errors_small(rows):
    for row in rows:
        assert set(COLUMNS) <= set(row)
        assert row["forward_ms"] > 0
        assert row["training_ms"] > 0
        assert (row["error"] is not None) == row["candidate"].startswith("ours")
        assert row["error"] is None or row["error"] < 1e-6
    assert {r["forward_ratio"] for r in rows if r["candidate"] == "Conv2d"} == {1.0}


@pytest.mark.filterwarnings("ignore:constrained_layout")  # a picture of two settings is narrow
def test_table_json_and_picture(rows, tmp_path):
    table = bench.markdown(rows, COLUMNS).splitlines()
    assert len(table) == len(rows) + 2
    assert len({line.count("|") for line in table}) == 1
    bench.write_json(tmp_path / "b.json", "harmonic", CPU, rows)
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["rows"] == rows
    assert {"device", "date", "commit", "versions"} <= set(written)
    bench_harmonic.plot(rows, tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_memory_is_what_a_call_holds():
    peak = bench.peak_bytes(lambda: torch.ones(64 << 18).sum(), CPU)
    if peak is not None:  # a kernel that lets a process reset its high-water mark
        assert 60 << 20 <= peak < 100 << 20


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_check_says_that_there_is_no_gpu(tmp_path):
    script = Path(__file__).parent.parent / "scripts/gpu_check.sh"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", script, tmp_path / "results"], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert result.returncode == 1
    assert "no CUDA device here" in result.stderr
