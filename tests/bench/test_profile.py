"""hlfeat bench profile: every operation is counted once, and the table adds up."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from hlfeat.bench import profile as bench
from hlfeat.errors import HlfeatError

CPU = torch.device("cpu")


def test_operations_are_counted():
    x = torch.randn(64, 64)
    rows = bench.kernels(lambda: [x.sin() for _ in range(5)] + [x.cos()], CPU)
    launches = {row["kernel"]: row["launches"] for row in rows}
    assert launches["aten::sin"] == 5
    assert launches["aten::cos"] == 1
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    with pytest.raises(HlfeatError, match="no kernels"):
        bench.kernels(lambda: None, CPU)


def test_on_a_gpu_its_kernels_alone_are_counted(monkeypatch):
    """With events as a GPU gives them: the host's operations have the time of the kernels that they start, too."""

    def event(key, kind, annotation=False):
        return SimpleNamespace(
            key=key, count=3, self_device_time_total=2000.0, self_cpu_time_total=9.0,
            device_type=SimpleNamespace(name=kind), is_user_annotation=annotation,
        )  # fmt: skip

    events = [event("aten::conv1d", "CPU"), event("sm90_kernel", "CUDA"), event("a step", "CUDA", annotation=True)]

    class Profiler:
        def __init__(self, activities, acc_events):
            assert torch.profiler.ProfilerActivity.CUDA in activities

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def key_averages(self):
            return events

    monkeypatch.setattr(bench, "profile", Profiler)
    monkeypatch.setattr(bench, "synchronize", lambda device: None)
    assert bench.kernels(list, torch.device("cuda")) == [{"kernel": "sm90_kernel", "launches": 3, "ms": 2.0}]


def test_the_table_adds_up():
    rows = [{"kernel": f"k{n}", "launches": n, "ms": 4.0 - n} for n in range(4)]
    shown = bench.table(rows, 12.0, top=2)
    assert [(r["kernel"], r["launches"], r["ms"], r["share"]) for r in shown] == [
        ("all", 6, 10.0, 1.0), ("k0", 0, 4.0, 0.4), ("k1", 1, 3.0, 0.3), ("others", 5, 3.0, 0.3)
    ]  # fmt: skip
    assert [r.get("wall_ms") for r in shown] == [12.0, None, None, None]
    assert [r["kernel"] for r in bench.table(rows, 12.0, top=4)] == ["all", "k0", "k1", "k2", "k3"]


def test_long_names_are_shortened_in_the_table_alone():
    name = "void kernel<a | b>" + "x" * 200
    (_, row) = bench.table([{"kernel": name, "launches": 1, "ms": 0.0}], 1.0)
    assert row["kernel"] == name
    assert len(row["short"]) == bench.NAME
    assert "|" not in row["short"]


def test_the_command(invoke, tmp_path):
    words = ["--device", "cpu", "--audio", 8, "--audio", 16, "--top", 3, "--json", tmp_path / "p.json"]
    result = invoke("bench", "profile", *words)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "p.json").read_text())["rows"]
    batches = [
        ("1 x 8 s", "forward"),
        ("1 x 8 s", "training step"),
        ("2 x 8 s", "forward"),
        ("2 x 8 s", "training step"),
    ]
    assert [(r["input"], r["pass"]) for r in rows] == [b for b in batches for _ in range(5)]
    totals = [r for r in rows if r["kernel"] == "all"]
    assert all(r["wall_ms"] > 0 for r in totals)
    for forward, training in (totals[:2], totals[2:]):
        assert 0 < forward["launches"] < training["launches"]
    assert len(result.stdout.splitlines()) == 22


def test_inference_and_training_are_profiled_as_such(monkeypatch):
    class Noting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            seen.add((tuple(x.shape), self.training, torch.is_grad_enabled()))
            return self.weight * x

    seen: set[tuple[tuple[int, ...], bool, bool]] = set()
    monkeypatch.setattr(bench, "SETTINGS", [SimpleNamespace(build=lambda compression: Noting())])
    bench.run(CPU, [16.0], 3, len, seconds=0.0)
    assert seen == {((2, 128000), False, False), ((2, 128000), True, True)}
