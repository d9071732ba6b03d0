"""Block sizes of the Triton kernels: the default, trying others, and the script that compares them on a GPU."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.bench import harmonic as bench
from hlfeat.nn.axes import LogAxis
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from tests import helpers

triton = pytest.importorskip("triton")

from hlfeat.nn.harmonic import blocks, triton_backend  # noqa: E402
from hlfeat.nn.harmonic.blocks import Blocks, Problem, choices, chosen, default  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.usefixtures("kernels")

PROBLEM = Problem(16, 256, 1000, 16, 32, 7, 1, -3, torch.float32, "tf32")
KERNELS = ["columns", "convolve", "correlate"]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.setattr(blocks, "_chosen", {})


@given(
    taps=st.integers(1, 16),
    dilation=st.integers(-4, 4).filter(bool),
    shift=st.integers(-20, 20),
    channels=st.sampled_from([8, 16, 100]),
    out=st.sampled_from([1, 16, 48, 256]),
)
def test_tiles_hold_all_frames_that_their_taps_read(taps, dilation, shift, channels, out):
    problem = Problem(1, 80, 500, channels, out, taps, dilation, shift, torch.float32, "ieee")
    if not problem.fits_columns():
        assert (taps - 1) * abs(dilation) >= 12  # of at least 64 frames
        return
    for b in choices("columns", problem):
        tile = problem.tile(b)
        assert tile >= 4
        reads = [t + dilation * u + shift - problem.first for t in (0, tile - 1) for u in (0, taps - 1)]
        assert min(reads) >= 0
        assert max(reads) < b.t
    assert problem.first % 4 == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_choices_are_a_handful_that_begins_with_the_default(kernel):
    tried = choices(kernel, PROBLEM)
    assert tried[0] == default(kernel, PROBLEM)
    assert 3 <= len(tried) == len(set(tried)) <= 6
    assert all(n >= 16 and n & (n - 1) == 0 for b in tried for n in b[:3])
    assert tried[0].stages == 1


def test_the_default_is_taken_unless_asked(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for wanted, setting in ((False, False), (True, True)):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", setting)
        assert blocks.measuring(CUDA) is wanted
    assert not blocks.measuring(torch.device("cpu"))  # in the interpreter
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not blocks.measuring(CUDA)  # nothing can be waited for
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert not blocks.measuring(CUDA)


@pytest.fixture
def measured(monkeypatch):
    """Measuring, but of made-up times: those of `fast` are the shortest; and what was measured."""
    seen: dict[str, object] = {"fast": None, "calls": []}

    def seconds(call, b):
        seen["calls"].append(b)
        return 1.0 if b == seen["fast"] else 2.0

    monkeypatch.setattr(blocks, "measuring", lambda device: True)
    monkeypatch.setattr(blocks, "seconds", seconds)
    return seen


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_fastest_is_kept_for_its_problem(measured, kernel):
    tried = choices(kernel, PROBLEM)
    measured["fast"] = tried[1]
    assert chosen(kernel, PROBLEM, CUDA, print) == tried[1]
    assert measured["calls"] == tried
    measured["fast"] = tried[2]  # another program may load the device now: results must not change
    for same in (PROBLEM, replace(PROBLEM, batch=9, frames=600, rows=200, shift=0)):
        assert chosen(kernel, same, CUDA, print) == tried[1]
    assert measured["calls"] == tried
    for other in (
        replace(PROBLEM, frames=1025),
        replace(PROBLEM, batch=17),
        replace(PROBLEM, precision="ieee"),
        replace(PROBLEM, dtype=torch.float16),
        replace(PROBLEM, channels=17),
    ):
        assert chosen(kernel, other, CUDA, print) in choices(kernel, other)
    assert len(measured["calls"]) > 5 * 3
    assert chosen(kernel, PROBLEM, torch.device("cuda:1"), print) == tried[2]


def test_what_was_used_before_measuring_is_kept(measured, monkeypatch):
    monkeypatch.setattr(blocks, "measuring", lambda device: False)
    usual = chosen("columns", PROBLEM, CUDA, print)
    monkeypatch.setattr(blocks, "measuring", lambda device: True)
    assert chosen("columns", PROBLEM, CUDA, print) == usual == default("columns", PROBLEM)
    assert not measured["calls"]


def test_time_is_the_median_of_the_runs_after_the_first(monkeypatch):
    clock = [0.0]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = clock[0]

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return end.at - self.at

    lengths = iter([500.0, 3.0, 1.0, 9.0, 2.0, 4.0])  # ms; compiling takes the first

    def call(b):
        clock[0] += next(lengths)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert blocks.seconds(call, Blocks(16, 16, 16)) == pytest.approx(3e-3)

    def too_large(b):
        raise triton.runtime.OutOfResources(300_000, 232_448, "shared memory")

    assert blocks.seconds(too_large, Blocks(16, 16, 16)) == float("inf")


@pytest.mark.parametrize("stride", [1, 2])
def test_every_choice_gives_the_same(stride, monkeypatch):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 9, 2, 70), torch.randn(10, 9, 2, 3)
    positions, asked = LogAxis(7.3, 2.0).positions(2, 2, 1), {}

    def run(x, weight, fused):
        x, weight = (v.detach().to(DEVICE).requires_grad_() for v in (x, weight))
        y = harmonic_conv2d(x, weight, None, positions, stride=stride, padding=1, fused=fused)
        return [v.cpu().double() for v in (y, *torch.autograd.grad(y.square().sum(), (x, weight)))]

    want = run(x.double(), weight.double(), None)
    for i in range(4):

        def choose(kernel, problem, device, call, i=i):
            tried = choices(kernel, problem)
            asked.setdefault(kernel, set()).add(tried[i % len(tried)])
            return tried[i % len(tried)]

        monkeypatch.setattr(triton_backend, "chosen", choose)
        for a, b in zip(run(x, weight, True), want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)  # sums of some hundred products of order one
    assert set(asked) == {"columns" if stride == 1 else "convolve", "correlate"}
    assert all(len(tried) >= 3 for tried in asked.values())


@pytest.fixture
def tune(monkeypatch):
    """The script, with a setting that is smaller than all of the bench's: the interpreter takes seconds for these."""
    monkeypatch.setattr(bench, "IN_CHANNELS", 3)
    monkeypatch.setattr(bench, "OUT_CHANNELS", 4)
    spec = importlib.util.spec_from_file_location("tune", helpers.ROOT / "scripts" / "tune_harmonic.py")
    tune = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tune)
    monkeypatch.setattr(tune, "SETTINGS", [bench.Setting("tiny", 2, 16, 3, 1), bench.Setting("other", 2, 16, 1, 1)])
    return tune


def test_tuning_compares_backends_and_every_kernel(tune, tmp_path, capsys):
    before, file = triton_backend.chosen, tmp_path / "tune.jsonl"
    tune.main(["--setting", "tiny", "--batch", "1", "--device", DEVICE, "--seconds", "0", "--json", str(file)])
    assert triton_backend.chosen is before
    environment, *rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert environment["device"]
    backends = [row for row in rows if row["what"] == "backends"]
    assert [row["precision"] for row in backends] == ["tf32", "float32"]
    for row in backends:
        assert row["fastest"] in tune.CANDIDATES
        assert all(row[f"{what} {name}"] > 0 for what in ("forward", "training") for name in tune.CANDIDATES)
    kernels = [row for row in rows if row["what"] == "blocks"]
    assert list(dict.fromkeys(row["kernel"] for row in kernels)) == [
        "forward", "gradient of the input", "gradient of the weight",
    ]  # fmt: skip
    assert all(row["ms"] > 0 for row in kernels)
    for name in {row["kernel"] for row in kernels}:
        tried = [row["blocks"] for row in kernels if row["kernel"] == name and row["precision"] == "tf32"]
        assert len(tried) == len(set(tried)) >= 3
        assert {blocks[-1] for blocks in tried} == {"1", "3"}  # stages
    assert "error" not in capsys.readouterr().out


def test_tuning_keeps_what_was_measured_before_an_error_or_the_limit(tune, monkeypatch, tmp_path, capsys):
    def compare(setting, *_):
        if setting.name == "tiny":
            raise torch.OutOfMemoryError("too large")
        monkeypatch.setattr(tune.time, "monotonic", lambda: 1e9)  # and then the time is over
        return {"fastest": "torch"}

    monkeypatch.setattr(tune, "compare", compare)
    file = tmp_path / "tune.jsonl"
    tune.main(["--batch", "1", "--device", DEVICE, "--limit", "60", "--json", str(file)])
    rows = [json.loads(line) for line in file.read_text().splitlines()][1:]
    assert [row.get("fastest") or row["error"] for row in rows] == ["OutOfMemoryError: too large"] * 2 + ["torch"]
    assert capsys.readouterr().out.count("is left out: 60 s are over") == 1 + 4
