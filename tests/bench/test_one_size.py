"""Harmonic convolution at a size of one's own: what is measured, and the options that give the size."""

from __future__ import annotations

import json

import pytest
import torch

from hlfeat.bench import harmonic as bench_harmonic
from hlfeat.bench import one_size
from hlfeat.bench.one_size import LAPS, OneSize, candidates, columns, measure, ratios, tensors
from hlfeat.bench.tables import markdown
from hlfeat.bench.timing import Runs
from hlfeat.cli import app
from hlfeat.cli import bench as cli_bench
from hlfeat.errors import HlfeatError, UsageError

CPU = torch.device("cpu")
TINY = OneSize(2, 3, 4, (4, 2), 12, 9, "log", 3.0, 2)


def test_a_ratio_is_the_median_of_the_laps_own_ratios_with_their_quartiles():
    """Not the ratio of the medians, which is 1 here: load that lasts for a lap slows both."""
    ours, conv = Runs([2.0, 40.0, 6.0, 8.0, 3.0]), Runs([1.0, 10.0, 2.0, 8.0, 6.0])
    assert ratios("r", ours, conv) == {"r": 2.0, "r_q1": 1.0, "r_q3": 3.0}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def rows(request):
    size = OneSize(**{**vars(TINY), "dtype": getattr(torch, request.param)})
    return size, measure(size, CPU, 0.0)


def test_each_candidate_runs_in_every_lap_and_is_compared_with_conv2d_and_float32(rows):
    size, measured = rows
    half = size.dtype != torch.float32
    names = ["Conv2d", "ours, log"]
    assert [r["candidate"] for r in measured] == names + [f"{n}, in float32" for n in names] * half
    for row in measured:
        assert row["runs"] == row["training_runs"] == LAPS  # the slowest too, however few seconds there are
        for step in ("forward", "training"):
            for base in ("ratio", "to_float32"):
                q1, middle, q3 = (row[f"{step}_{base}{q}"] for q in ("_q1", "", "_q3"))
                assert 0 < q1 <= middle <= q3
    assert {r["forward_ratio"] for r in measured if r["candidate"].startswith("Conv2d")} == {1.0}
    assert measured[0]["forward_to_float32"] == 1.0 or half


def test_results_are_compared_with_float64(rows):
    for row in rows[1]:
        assert (row["error"] is None) == row["candidate"].startswith("Conv2d")
        if row["error"] is not None:
            assert row["error"] < (1e-6 if row["dtype"] == "float32" else 0.01)
            assert (row["error"] > 1e-4) == (row["dtype"] == "bfloat16")


def test_the_table_has_the_ratios_to_float32_only_beside_a_half_precision(rows):
    size, measured = rows
    table = markdown(measured, columns(size.dtype)).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert table[0].count("/ float32") == 2 * (size.dtype != torch.float32)
    assert table[0].count("q1") == table[0].count("/")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_is_that_of_autocast(dtype):
    inputs = tensors(TINY, CPU, 2, dtype)
    assert [v.dtype for v in inputs] == [dtype, torch.float32, torch.float32]
    for call in candidates(TINY, CPU, dtype, inputs).values():
        y = call()
        assert y.dtype == dtype
        gradients = torch.autograd.grad(y.sum(), inputs)
        assert [v.dtype for v in gradients] == [v.dtype for v in inputs]


@pytest.mark.parametrize("axis", ["linear", "log", "centre"])
def test_axes_are_those_of_the_papers_settings(axis):
    setting = bench_harmonic.Setting("3", 16, 12, 3, 1)
    size = OneSize(1, rows=16, frames=12, axis=axis)
    torch.testing.assert_close(size.positions(), setting.axes()[axis].positions(16, 3, 1), rtol=0, atol=0)


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError()]
)
def test_a_size_that_does_not_fit_is_an_error_of_the_user(monkeypatch, error):
    def too_large(*_):
        raise error

    monkeypatch.setattr(one_size, "measure", too_large)
    with pytest.raises(HlfeatError, match=r"kernel 4x2.*: out of memory") as caught:
        one_size.run(TINY, CPU, list)
    assert caught.value.remedy == "batch"


@pytest.fixture
def bench(monkeypatch):
    """Calls the command; returns what the bench was called with: "paper", or a size and seconds."""
    called = []
    monkeypatch.setattr(cli_bench, "set_up_logging", lambda *_, **__: None)
    monkeypatch.setattr(bench_harmonic, "run", lambda *_: called.append("paper"))
    monkeypatch.setattr(one_size, "run", lambda size, device, done, seconds: called.append((size, seconds)))

    def call(*arguments: str) -> list:
        called.clear()
        app.app(["bench", "harmonic", "--device", "cpu", *arguments], standalone_mode=False)
        return called

    return call


def test_options_give_a_size_and_without_them_the_papers_settings_are_measured(bench):
    assert bench() == bench("--batch", "2", "--only", "3") == ["paper"]
    assert bench("--rows", "84", "--seconds", "1") == [(OneSize(4, rows=84), 1.0)]
    assert bench("--dtype", "bfloat16") == [(OneSize(4, dtype=torch.bfloat16), None)]
    assert bench("--axis", "centre", "--anchor", "3") == [(OneSize(4, axis="centre", anchor=3), None)]
    everything = "--in-channels 2 --out-channels 3 --kernel 5x7 --rows 84 --frames 50 --bins-per-octave 12 --batch 1"
    assert bench(*everything.split()) == [(OneSize(1, 2, 3, (5, 7), 84, 50, "log", 12.0), None)]


INSTEAD = "write --axis log, or leave one out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--only 3 --rows 84 --kernel 5x3", "--only 3 is of the paper's settings: write it without --kernel, --rows"),
        ("--quick --dtype bfloat16", "--quick is of the paper's settings: with --dtype, write --seconds 0.5"),
        ("--axis linear --bins-per-octave 9", "--bins-per-octave with --axis linear: " + INSTEAD),
        ("--axis centre --bins-per-octave 9", "--bins-per-octave with --axis centre: " + INSTEAD),
        ("--bins-per-octave 0", "--bins-per-octave 0: expected a number above 0, such as 12"),
        ("--bins-per-octave nan", "--bins-per-octave nan: expected a number above 0, such as 12"),
    ],
)  # fmt: skip
def test_options_that_have_no_meaning_together_are_refused(bench, arguments, message):
    with pytest.raises(UsageError) as caught:
        bench(*arguments.split())
    assert str(caught.value) == message


@pytest.mark.parametrize("kernel", ["5,3", "5", "0x3", "5x3x1", "x3", ""])
def test_a_kernel_has_one_spelling(invoke, kernel):
    result = invoke("bench", "harmonic", "--kernel", kernel)
    assert result.returncode == 2
    assert f"expected harmonics x frames, such as 5x3, got '{kernel}'" in result.stderr


def test_the_command_prints_and_writes_the_size(invoke, tmp_path):
    arguments = "--rows 12 --frames 9 --in-channels 2 --out-channels 3 --batch 1 --seconds 0 --device cpu"
    result = invoke("bench", "harmonic", *arguments.split(), "--json", "b.json", "--plot", "b.svg", cwd=tmp_path)
    assert (result.returncode, result.stdout.count("\n")) == (0, 4)
    size = "1 x 2 x 12 x 9 -> 3 channels, kernel 3x3, linear axis, anchor 1"
    assert f"harmonic convolution, {size}, float32" in result.stderr
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["complete"]
    assert {row["setting"] for row in written["rows"]} == {size}
    assert (tmp_path / "b.svg").exists()
