"""What a bench keeps while it runs: whole files at every moment, and the precision in which it ran."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from hlfeat.bench import frontend, harmonic, results
from hlfeat.bench.frontend import Candidate
from hlfeat.bench.results import Results, describe, environment, precisions
from hlfeat.precision import float32_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
COLUMNS = {"name": "name", "ms": "ms|.1f"}
BACKENDS = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn


def set_precisions() -> list[str]:
    return [backend.fp32_precision for backend in BACKENDS]


def test_the_file_is_whole_before_the_first_row_and_after_each(tmp_path):
    path, lines = tmp_path / "b.json", []
    table = Results(COLUMNS, lines.append, {"bench": "tiny"}, path)
    assert json.loads(path.read_text()) == {"bench": "tiny", "complete": False, "rows": []}
    rows = [{"name": "a", "ms": 1.0}, {"name": "b", "ms": 2.0}]
    for n in (1, 2):
        table.add(rows[n - 1 : n])
        assert json.loads(path.read_text()) == {"bench": "tiny", "complete": False, "rows": rows[:n]}
    table.finish()
    assert json.loads(path.read_text()) == {"bench": "tiny", "complete": True, "rows": rows}
    assert "".join(lines) == "| name | ms |\n| --- | --- |\n| a | 1.0 |\n| b | 2.0 |\n"
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


def test_what_was_measured_before_a_bench_fails_is_kept(invoke, tmp_path, monkeypatch):
    real = harmonic.measure

    def measure(setting, *arguments):
        if setting.name == "8":
            raise torch.OutOfMemoryError
        return real(setting, *arguments)

    monkeypatch.setattr(harmonic, "measure", measure)
    monkeypatch.setattr(harmonic, "SETTINGS", [s for s in harmonic.SETTINGS if s.name in ("9", "8")][::-1])
    words = ["--device", "cpu", "--batch", 1, "--seconds", 0, "--json", tmp_path / "b.json"]
    result = invoke("bench", "harmonic", *words)
    assert result.returncode == 1
    assert "setting 8: out of memory" in result.stderr
    written = json.loads((tmp_path / "b.json").read_text())
    assert {row["setting"] for row in written["rows"]} == {"9"}
    assert written["complete"] is False
    assert invoke("bench", "harmonic", "--only", "9", *words).returncode == 0
    assert json.loads((tmp_path / "b.json").read_text())["complete"] is True


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is asked for its capability alone, which can be changed."""
    gpu = SimpleNamespace(capability=(8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpu.capability)
    return gpu


@pytest.mark.parametrize("tf32", [False, True])
def test_the_precision_is_that_of_the_device_at_the_moment(gpu, tf32):
    with float32_precision(not tf32), float32_precision(tf32):
        expected = "tf32" if tf32 else "ieee"
        assert set_precisions() == [expected] * 3
        assert precisions(CUDA) == {"convolutions": expected, "matrix products": expected}
        assert set(precisions(CPU).values()) == {"ieee"}
        BACKENDS[1].fp32_precision = "ieee"
        assert precisions(CUDA) == {"convolutions": "ieee", "matrix products": expected}
        gpu.capability = (7, 5)
        assert set(precisions(CUDA).values()) == {"ieee"}


def test_what_was_set_before_is_set_again():
    before, old = set_precisions(), torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), float32_precision(tf32=True):
        raise ZeroDivisionError
    with float32_precision(tf32=False):
        assert set_precisions() == ["ieee"] * 3
    assert set_precisions() == before
    assert torch.backends.cudnn.allow_tf32 == old  # the older switches can be read again, too


def test_the_line_about_the_environment_names_the_precision():
    facts = environment(CPU) | {"float32": {"convolutions": "tf32", "matrix products": "ieee"}}
    line = describe(facts, "harmonic")
    assert line.endswith(": harmonic, convolutions in TF32, matrix products in full float32, medians")
    assert line.startswith("cpu (")


@pytest.mark.parametrize(("words", "expected"), [(["--tf32"], "tf32"), (["--no-tf32"], "ieee"), ([], "ieee")])
@pytest.mark.parametrize("bench", [harmonic, frontend])
def test_benches_run_in_the_precision_that_was_asked_for(invoke, bench, words, expected, monkeypatch, tmp_path):
    seen, before = [], set_precisions()
    monkeypatch.setattr(bench, "run", lambda *_: seen.append(set_precisions()))
    monkeypatch.setattr(results, "precisions", lambda device: dict.fromkeys(["products"], BACKENDS[0].fp32_precision))
    name = bench.__name__.rpartition(".")[2]
    result = invoke("bench", name, "--device", "cpu", *words, "--json", tmp_path / "b.json")
    assert result.returncode == 0, result.stderr
    assert seen == [[expected] * 3]
    assert set_precisions() == before
    assert json.loads((tmp_path / "b.json").read_text())["float32"] == {"products": expected}
    assert f"products in {'TF32' if expected == 'tf32' else 'full float32'}" in result.stderr


def test_a_candidate_in_tf32_is_so_whatever_the_others_are():
    class Noting(torch.nn.Module):
        def forward(self, x):
            seen.append(set_precisions())
            return x

    seen: list[list[str]] = []
    with float32_precision(tf32=False):
        for tf32 in (True, False):
            Candidate(Noting(), "log-mel", tf32).forward(torch.zeros(1))
    assert seen == [["tf32"] * 3, ["ieee"] * 3]


def test_a_row_in_tf32_is_added_where_the_others_are_not(gpu):
    class Device(str):
        """Builds as the meta device does, and is taken for a GPU."""

        type = "cuda"

    for tf32 in (False, True):
        with float32_precision(tf32):
            assert ("plain, TF32" in frontend.candidates(frontend.SETTINGS[0], Device("meta"))) != tf32
