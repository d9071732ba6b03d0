"""The table of targets: it compares what it says, and says nothing that no file holds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hlfeat.bench import frontend, harmonic, targets
from hlfeat.bench.targets import FRONTEND_INPUTS, HARMONIC_CASES, TARGETS, read, report
from hlfeat.cli.options import DEFAULT
from hlfeat.errors import UsageError
from tests import helpers

GPU = "cuda (A GPU)"
HARMONIC = "harmonic convolution / nn.Conv2d, "
LEAF = "EfficientLEAF 8G-opt/80 / torchaudio log-mel, "
RUN = "speed of `extract` / of decoding alone, FLAC clips of "


@pytest.fixture
def write(tmp_path):
    """Write a file as a bench does."""

    def write(name: str, bench: str, rows: list[dict], precision: str | None = "ieee", device=GPU, **facts) -> None:
        products = {"convolutions": precision, "matrix products": precision}
        facts = {"commit": "0123456789ab", "date": "2026-11-28", "complete": True} | facts
        facts |= {"float32": products} if precision else {}
        (tmp_path / name).write_text(json.dumps({"bench": bench, "device": device, "rows": rows, **facts}))

    return write


def lines(folder) -> dict[str, list[str]]:
    """Of the table, by target: aim, measured, worst setting, cases, verdict."""
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report(read([folder])).splitlines()]
    return {cells[0]: cells[1:] for cells in table if len(cells) == 6 and cells[0] in {t.name for t in TARGETS}}


def harmonic_rows(forward: float, training: float, engine: str = "fused") -> list[dict]:
    rows = []
    for case in sorted(HARMONIC_CASES):
        setting, _, axis = case.rpartition(", ")
        row = {"setting": setting, "forward_ratio": forward, "training_ratio": training}
        rows.append(row | {"candidate": f"{engine}, {axis}"})
    return [*rows, {"setting": "1", "candidate": "deformable", "forward_ratio": 50.0, "training_ratio": 50.0}]


def leaf_rows(inputs=FRONTEND_INPUTS, **figures) -> list[dict]:
    row = {"setting": "8G-opt-80", "candidate": "ours, logtbn", "busy": 0, "left_out": None}
    return [{**row, "input": batch, **figures} for batch in sorted(inputs)]


def run_row(seconds: float, to_decode: float, **changed) -> dict:
    row = {"config": "eleaf-8g-opt", "stage": "whole", "engine": "usual", "kinds": ["flac"], "to_decode": to_decode}
    return row | {"shortest": seconds, "longest": seconds} | changed


def test_the_cases_are_those_of_the_benches():
    cases = {f"{s.name}, {axis}" for s in harmonic.SETTINGS for axis in s.axes()}
    assert cases == HARMONIC_CASES
    assert len(harmonic.SETTINGS) == 14
    assert {i.name for i in frontend.INPUTS} == FRONTEND_INPUTS
    assert frontend.SETTINGS[0].name == "8G-opt-80"
    assert frontend.SETTINGS[0].compressions[0] == "logtbn"
    assert {DEFAULT} == targets.PIPELINE_CONFIGS


def test_the_aims():
    aims = {t.name: (t.aim, t.at_least) for t in TARGETS}
    for engine in ("Triton kernels, ", "torch operations, "):
        for precision in ("TF32", "float32"):
            assert aims.pop(f"{HARMONIC}{engine}forward, {precision}") == (1.0, False)
            assert aims.pop(f"{HARMONIC}{engine}with backward, {precision}") == (1.2, False)
    assert aims == {
        f"{LEAF}inference": (2.0, False), f"{LEAF}training step": (3.0, False),
        f"{RUN}10 s": (0.9, True), f"{RUN}1 s": (0.7, True),
    }  # fmt: skip


def test_met_and_missed_by_precision_and_engine(write, tmp_path):
    write("a.json", "harmonic, batch 16", harmonic_rows(1.0, 1.21))
    write("b.json", "harmonic, batch 16", harmonic_rows(1.1, 0.5), "tf32")
    write("c.json", "harmonic, batch 16", harmonic_rows(0.9, 0.9, "ours"))
    table = lines(tmp_path)
    assert table[f"{HARMONIC}Triton kernels, forward, float32"][0::3] == ["<= 1.0", "38 of 38"]
    verdicts = {name.removeprefix(HARMONIC): row[-1] for name, row in table.items() if name.startswith(HARMONIC)}
    assert verdicts == {
        "Triton kernels, forward, TF32": "missed",
        "Triton kernels, with backward, TF32": "met",
        "Triton kernels, forward, float32": "met",
        "Triton kernels, with backward, float32": "missed",
        "torch operations, forward, TF32": "not measured",
        "torch operations, with backward, TF32": "not measured",
        "torch operations, forward, float32": "met",
        "torch operations, with backward, float32": "met",
    }


def test_sizes_of_ones_own_are_no_cases(write, tmp_path):
    write("a.json", "harmonic, batch 16", harmonic_rows(1.0, 1.0))
    row = {"setting": "2 x 16 x 352 x 400 -> 16 channels, kernel 5x3, log axis", "dtype": "bfloat16"}
    write("b.json", "harmonic convolution", [{**row, "candidate": "fused, log", "forward_ratio": 3.0}])
    assert lines(tmp_path)[f"{HARMONIC}Triton kernels, forward, float32"][1::3] == ["1.00", "met"]


def test_the_worst_case_is_named(write, tmp_path):
    rows = harmonic_rows(0.5, 0.5)
    rows[7]["forward_ratio"] = 0.75
    write("a.json", "harmonic, batch 16", rows)
    name, axis = rows[7]["setting"], rows[7]["candidate"].removeprefix("fused")
    assert lines(tmp_path)[f"{HARMONIC}Triton kernels, forward, float32"][1:] == [
        "0.75",
        name + axis,
        "38 of 38",
        "met",
    ]
    write("b.json", "harmonic, batch 16", [rows[3] | {"forward_ratio": 1.5}])  # a case again, and worse
    assert lines(tmp_path)[f"{HARMONIC}Triton kernels, forward, float32"][1::3] == ["1.50", "missed"]


def test_what_was_not_measured_is_not_met(write, tmp_path):
    rows = harmonic_rows(0.5, 0.5)
    write("a.json", "harmonic, batch 16", rows[1:], complete=False)
    table = lines(tmp_path)
    assert table[f"{HARMONIC}Triton kernels, forward, float32"][3:] == ["37 of 38", "not all measured"]
    assert table[f"{HARMONIC}Triton kernels, forward, TF32"] == ["<= 1.0", "", "", "0 of 38", "not measured"]
    assert "a.json | harmonic, batch 16 | ieee | 0123456789ab | 2026-11-28 | stopped before its end |" in report(
        read([tmp_path])
    )
    write("a.json", "harmonic, batch 16", rows, precision=None)
    table = lines(tmp_path)
    assert {row[-1] for row in table.values()} == {"not measured"}  # nobody knows in which precision
    rows[0]["forward_ratio"] = float("nan")
    write("a.json", "harmonic, batch 16", rows)
    assert lines(tmp_path)[f"{HARMONIC}Triton kernels, forward, float32"][3:] == ["37 of 38", "not all measured"]


def test_frontends(write, tmp_path):
    rows = leaf_rows(forward_to_logmel=2.0, training_to_logmel=3.1)
    others = [
        rows[0] | {"setting": "8G-opt-40", "forward_to_logmel": 9.0},
        rows[0] | {"candidate": "ours, pcen", "forward_to_logmel": 9.0},
        rows[0] | {"busy": 2, "forward_to_logmel": 9.0},
        rows[0] | {"forward_to_logmel": None, "left_out": "forward: 9 s a run"},
    ]
    write("f.json", "frontend", rows + others)
    write("g.json", "frontend", leaf_rows(forward_to_logmel=9.0), "tf32")
    table = lines(tmp_path)
    assert table[f"{LEAF}inference"] == ["<= 2.0", "2.00", "1 x 600 s", "4 of 4", "met"]
    assert table[f"{LEAF}training step"][-1] == "missed"
    write("f.json", "frontend", leaf_rows(["16 x 1 s"], forward_to_logmel=1.0))
    assert lines(tmp_path)[f"{LEAF}inference"] == ["<= 2.0", "1.00", "16 x 1 s", "0 of 4", "not all measured"]


def test_runs_count_for_their_length_of_clips(write, tmp_path):
    write("p.json", "pipeline, 16 workers", [run_row(10.0, 0.9), run_row(10.0, 0.95, config="log-mel")])
    others = [
        run_row(1.0, 0.1, kinds=["wav"]),
        run_row(1.0, 0.1, engine="none"),
        run_row(1.0, 0.1, stage="compute"),
        run_row(1.0, 0.1, longest=2.0),
        {key: value for key, value in run_row(1.0, 0.1).items() if key not in ("shortest", "longest", "kinds")},
    ]
    write("q.json", "pipeline, 16 workers", others)
    table = lines(tmp_path)
    assert table[f"{RUN}10 s"] == [">= 0.9", "0.90", "eleaf-8g-opt", "1 of 1", "met"]
    assert table[f"{RUN}1 s"] == [">= 0.7", "", "", "0 of 1", "not measured"]
    write("q.json", "pipeline, 16 workers", [run_row(1.0, 0.69)])
    assert lines(tmp_path)[f"{RUN}1 s"][1::3] == ["0.69", "missed"]
    write("q.json", "pipeline, 16 workers", [run_row(1.0, 0.9), run_row(1.0, 0.5, config="log-mel")])
    assert lines(tmp_path)[f"{RUN}1 s"][1:] == ["0.50", "log-mel", "1 of 1", "missed"]


def test_devices_are_not_mixed_and_a_cpu_meets_nothing(write, tmp_path):
    write("a.json", "pipeline, 16 workers", [run_row(10.0, 0.95)])
    write("b.json", "pipeline, 2 workers", [run_row(10.0, 0.2)], device="cpu (2 threads)")
    gpu, cpu = report(read([tmp_path])).split("## ")[1:]
    assert gpu.startswith(GPU)
    assert "| 0.95 | eleaf-8g-opt | 1 of 1 | met |" in gpu
    assert "a.json" in gpu
    assert "b.json" not in gpu
    assert "This device is no GPU" not in gpu
    assert cpu.startswith("cpu (2 threads)\n\nThis device is no GPU.")
    assert "| 0.20 | eleaf-8g-opt | 1 of 1 | no GPU |" in cpu
    assert "met |" not in cpu
    assert "missed |" not in cpu


def test_files_that_are_no_results(write, tmp_path):
    with pytest.raises(UsageError, match="found none"):
        read([tmp_path])
    (tmp_path / "other.json").write_text("[]")
    write("a.json", "pipeline, 2 workers", [])
    assert [r.path.name for r in read([tmp_path])] == ["a.json"]
    (tmp_path / "half.json").write_text('{"bench": "pipe')
    with pytest.raises(UsageError, match=r"half\.json: expected the JSON of a bench"):
        read([tmp_path])


def test_the_script(write, tmp_path):
    """Without torch, which takes seconds to load."""
    write("a.json", "pipeline, 16 workers", [run_row(10.0, 0.95)])

    def run(*paths) -> subprocess.CompletedProcess[str]:
        code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
        script = helpers.ROOT / "scripts/gpu_targets.py"
        return subprocess.run([sys.executable, "-c", code, script, *paths], capture_output=True, text=True, check=False)

    result = run(tmp_path / "a.json")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == report(read([tmp_path]))
    assert run().returncode == 2
    missing = run(tmp_path / "none.json")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: ")
