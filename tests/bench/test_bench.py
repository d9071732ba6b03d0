"""Benchmarks: that they compare what they say, and that their files can be read. Never how fast anything is."""

from __future__ import annotations

import json
import time

import pytest
import torch

import hlfeat
from hlfeat.bench import frontend as bench_frontend
from hlfeat.bench import harmonic as bench_harmonic
from hlfeat.bench import results, tables, timing
from hlfeat.bench.choosing import chosen
from hlfeat.bench.frontend import Input, PlainLeaf
from hlfeat.bench.harmonic import COLUMNS, Setting
from hlfeat.cli import app
from hlfeat.cli import bench as cli_bench
from hlfeat.errors import OutputError, UsageError
from hlfeat.plotting.figures import save
from tests.nn.frontends.test_gabor import plain_energies, relative

CPU = torch.device("cpu")
TINY = [Setting("3", 16, 12, 3, 1), Setting("80 bands, anchor 4", 16, 20, 5, 4)]


def test_every_candidate_takes_its_turn_and_slow_ones_run_once():
    order = []
    calls = {"a": lambda: order.append("a"), "slow": lambda: (order.append("slow"), time.sleep(0.6))}
    runs = timing.time_interleaved(calls, CPU, seconds=0.5, least=4)
    assert len(runs["slow"].seconds) == 1
    assert runs["slow"].seconds[0] >= 0.6
    assert len(runs["a"].seconds) >= 4
    assert order[:3] == ["a", "slow", "a"]


def test_each_lap_has_an_order_of_its_own():
    """A candidate pays for memory that the one before it has returned, so its predecessor must change."""
    order = []
    timing.time_interleaved({n: lambda n=n: order.append(n) for n in "abcd"}, CPU, 0.0, least=40, patience=1.0)
    laps = ["".join(order[i : i + 4]) for i in range(4, len(order), 4)]
    assert len(laps) == 40
    assert {"".join(sorted(lap)) for lap in laps} == {"abcd"}
    assert {lap[0] for lap in laps} == set("abcd")
    assert len({lap[i : i + 2] for lap in laps for i in range(3)}) == 12  # each after each other


def test_every_candidate_is_called_before_memory_is_measured(monkeypatch):
    """Plans and machine code are made in the first call and kept: they are not the memory of a single call."""
    called, before = [], []
    real = bench_harmonic.candidates

    def candidates(*arguments):
        return {n: lambda n=n, c=c: (called.append(n), c())[1] for n, c in real(*arguments).items()}

    def time_interleaved(*arguments):
        before.append(set(called))
        return timing.time_interleaved(*arguments)

    monkeypatch.setattr(bench_harmonic, "candidates", candidates)
    monkeypatch.setattr(bench_harmonic, "time_interleaved", time_interleaved)
    rows = list(bench_harmonic.measure(TINY[0], CPU, 1, 0.0))
    assert before[0] == {row["candidate"] for row in rows}


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_on_a_gpu_kernels_are_loaded_before_times_are_taken(monkeypatch, kind):
    """Not on a CPU, where a training step of deformable convolution takes half a minute."""

    class Device(str):
        type = kind

    called, before = set(), []
    real = bench_harmonic.candidates

    def note(name, call):
        return lambda: (called.add((name, torch.is_grad_enabled())), call())[1]

    def time_interleaved(calls, *_):
        before.append(set(called))
        return {name: timing.Runs([1.0]) for name in calls}

    monkeypatch.setattr(bench_harmonic, "candidates", lambda *a: {n: note(n, c) for n, c in real(*a).items()})
    monkeypatch.setattr(bench_harmonic, "time_interleaved", time_interleaved)
    names = {row["candidate"] for row in bench_harmonic.measure(TINY[0], Device("cpu"), 1, 0.0)}
    assert {(name, False) for name in names} <= before[0]
    assert ({(name, True) for name in names} <= before[0]) == (kind == "cuda")


def test_candidates_compute_the_same_thing():
    for setting in TINY:
        x, weight, bias = bench_harmonic.tensors(setting, 2, CPU)
        calls = bench_harmonic.candidates(setting, x, weight, bias)
        first = next(n for n in calls if n.startswith("ours"))
        torch.testing.assert_close(calls["lowering"](), calls[first](), rtol=1e-4, atol=1e-4)
        if setting.name == "3":  # rows are hit exactly, so that the border of deformable convolution does not matter
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


def test_table_json_and_picture(rows, tmp_path):
    table = tables.markdown(rows, COLUMNS).splitlines()
    assert len(table) == len(rows) + 2
    assert len({line.count("|") for line in table}) == 1
    results.write_json(tmp_path / "b.json", results.environment(CPU), rows)
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["rows"] == rows
    assert {"device", "date", "commit", "versions"} <= set(written)
    save(bench_harmonic.picture(rows), tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


FRONTENDS = {
    "defaults": lambda **options: hlfeat.EfficientLeaf(12, 3, **options),
    "8G-opt": lambda **options: hlfeat.EfficientLeaf(16, 8, conv_win_factor=6, stride_factor=16, **options),
    "leaf": lambda **options: hlfeat.Leaf(6, **options),
}


def moved(frontend):
    """In float64, with parameters away from where they start, some of them beyond their ranges."""
    torch.manual_seed(0)
    frontend, n = frontend.double(), frontend.n_bands
    with torch.no_grad():
        frontend.filterbank.bandwidths *= 0.3 + 2 * torch.rand(n)
        frontend.filterbank.pooling_widths.copy_(torch.rand(n))
    return frontend


@pytest.mark.parametrize("name", ["defaults", "8G-opt"])
def test_the_plain_frontend_equals_the_loop(name):
    frontend, x = moved(FRONTENDS[name]()), torch.randn(2, 3000)
    frontend.float().double()  # the loop takes parameters in float32
    energies = PlainLeaf(frontend).energies(x.double())
    assert relative(energies.detach(), plain_energies(frontend.filterbank, x)) < 1e-6  # its clamps are those of float32


@pytest.mark.parametrize("compression", ["logtbn", "pcen"])
@pytest.mark.parametrize("name", FRONTENDS)
def test_features_and_gradients_equal_the_plain_frontends(name, compression):
    frontend, x = moved(FRONTENDS[name](compression=compression)), torch.randn(3, 4000).double()
    if compression == "logtbn":
        frontend.compression.log1p.a.data.zero_()  # where it is large the norm cancels it, and so its gradient
    results = []
    for module in (frontend, PlainLeaf(frontend)):
        y = module(x)
        cotangent = torch.linspace(-1, 1, y.numel()).view_as(y).double()
        results.append([y, *torch.autograd.grad(y, list(frontend.parameters()), cotangent)])
    for ours, plain in zip(*results, strict=True):
        assert relative(ours.detach(), plain.detach()) < 1e-12


def test_plain_filters_are_made_once_for_inference_and_anew_at_each_training_step(monkeypatch):
    plain, x, calls = PlainLeaf(hlfeat.EfficientLeaf(8, 2)), torch.randn(1, 800), []
    original = PlainLeaf.filters
    monkeypatch.setattr(PlainLeaf, "filters", lambda self: (calls.append(1), original(self))[1])
    with torch.no_grad():
        for training, expected in [(False, 1), (True, 2), (False, 1)]:
            plain.train(training)
            calls.clear()
            for _ in range(2):
                plain(x)
            assert len(calls) == expected


SMALL = bench_frontend.Setting("small-8", lambda **options: hlfeat.EfficientLeaf(8, 2, **options))


@pytest.fixture(scope="module")
def frontend_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_frontend, "QUICK_INPUTS", [Input(8, 0.2), Input(1, 1)])
        lines = []
        table = results.Results(bench_frontend.COLUMNS, lines.append)
        rows = bench_frontend.run(CPU, [SMALL], quick=True, all=False, done=table.add)
    assert table.rows == rows
    return rows, "".join(lines)


def test_rows_of_frontends_are_complete_and_errors_small(frontend_rows):
    rows, table = frontend_rows
    candidates = ["log-mel", "plain", "ours, filterbank", "ours, logtbn", "ours, pcen"]
    assert [(r["input"], r["candidate"]) for r in rows] == [
        (i, c) for i in ("8 x 0.2 s", "1 x 1 s") for c in candidates
    ]
    assert len(table.splitlines()) == len(rows) + 2
    for row in rows:
        assert set(bench_frontend.COLUMNS) <= set(row)
        assert row["forward_ms"] > 0
        assert row["training_ms"] > 0
        assert row["left_out"] is None
        assert (row["error"] is None) == (row["candidate"] == "log-mel")
        assert row["error"] is None or row["error"] < 5e-6
        assert (row["forward_to_plain"] is None) == (row["candidate"] not in ("plain", "ours, logtbn"))
        assert (row["training_compression"] is None) == (row["candidate"] not in ("ours, logtbn", "ours, pcen"))
    seconds = {"8 x 0.2 s": 1.6, "1 x 1 s": 1.0}
    for r in rows:
        assert r["forward_real_time"] == pytest.approx(seconds[r["input"]] / r["forward_ms"] * 1e3)


def test_the_picture_of_frontends(frontend_rows, tmp_path):
    save(bench_frontend.picture(frontend_rows[0]), tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_on_the_cpu_the_papers_input_alone_is_trained_on(monkeypatch):
    measured = []

    def measure(modules, batch, device, seconds, training):
        measured.append((batch, training))
        return []

    monkeypatch.setattr(bench_frontend, "errors", lambda *_: {})
    monkeypatch.setattr(bench_frontend, "measure", measure)
    bench_frontend.run(CPU, [SMALL], quick=False, all=False, done=len)
    assert [batch for batch, training in measured if training] == [Input(16, 16)]
    assert len(measured) == 4
    measured.clear()
    bench_frontend.run(CPU, [SMALL], quick=False, all=True, done=len)
    assert all(training for _, training in measured)


def test_a_candidate_that_memory_would_not_hold_is_left_out(monkeypatch):
    def needs(call, device):
        return 2 << 30 if isinstance(call.args[0], torch.Tensor) and call.func.__self__.module is plain else 0

    modules = bench_frontend.candidates(SMALL, CPU)
    plain = modules["plain"].module
    monkeypatch.setattr(bench_frontend, "peak_bytes", needs)
    monkeypatch.setattr(bench_frontend, "free_bytes", lambda device: 16 << 30)
    monkeypatch.setattr(bench_frontend, "without_gradient", lambda call: call)
    rows = {r["candidate"]: r for r in bench_frontend.measure(modules, Input(8, 0.1), CPU, 0.01, True)}
    assert rows["plain"]["left_out"] == (
        "forward: about 16.0 GiB needed, 16.0 GiB free; training: about 16.0 GiB needed, 16.0 GiB free"
    )
    assert "forward_ms" not in rows["plain"]
    assert rows["ours, logtbn"]["forward_ms"] > 0
    assert rows["ours, logtbn"]["forward_to_plain"] is None


def test_running_out_of_memory_is_a_row(monkeypatch):
    def measure(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bench_frontend, "measure", measure)
    done = []
    rows = bench_frontend.run(CPU, [SMALL], quick=True, all=False, done=done.append)
    assert [r["left_out"] for r in rows] == ["out of memory"] * 2
    assert done == [rows[:1], rows[1:]]


def test_settings_are_chosen_by_a_part_of_their_name(invoke):
    assert [s.name for s in chosen(bench_frontend.SETTINGS, ["8g-opt"])] == ["8G-opt-80", "8G-opt-40"]
    assert chosen(bench_frontend.SETTINGS, []) == bench_frontend.SETTINGS
    with pytest.raises(UsageError, match=r"leaf-41: expected .*leaf-40"):
        chosen(bench_frontend.SETTINGS, ["leaf-41"])
    result = invoke("bench", "frontend", "--device", "cpu", "--only", "mel")
    assert result.returncode == 2
    assert "--only mel: expected" in result.stderr


def test_peak_memory_is_that_of_the_call():
    peak = timing.peak_bytes(lambda: torch.ones(64 << 18).sum(), CPU)
    if peak is not None:  # a kernel that lets a process reset its high-water mark
        assert 60 << 20 <= peak < 100 << 20


def test_peak_memory_counts_what_a_call_reuses():
    def call():
        return [torch.ones(1 << 14) for _ in range(800)]  # so small that malloc keeps their memory when they are freed

    held = call()
    last = torch.ones(1 << 14)  # lies above them, so that their memory cannot be returned
    del held
    peak = timing.time_interleaved({"call": call}, CPU, 0.01)["call"].peak
    assert peak is None or peak >= 45 << 20
    del last


@pytest.mark.parametrize("which", ["harmonic", "frontend"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "b.xyz"], "b.xyz: expected an extension of png, pdf"),
        (["--plot", "b"], "b: expected an extension of png, pdf"),
        (["--plot", "none/b.png"], "--plot none/b.png: cannot be written: none: No such file or directory"),
        (["--json", "none/b.json"], "--json none/b.json: cannot be written: none: No such file or directory"),
        (["--json", "/proc/b.json"], "--json /proc/b.json: cannot be written: /proc: "),
        (["--json", "."], "--json .: expected a file, found a folder"),
    ],
)
def test_what_could_not_be_written_is_refused_before_the_bench_runs(which, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_bench, "set_up_logging", lambda *_, **__: None)
    for module in (bench_harmonic, bench_frontend):
        monkeypatch.setattr(module, "run", lambda *_: pytest.fail("the bench has run"))
    with pytest.raises(UsageError) as caught:
        app.app(["bench", which, *arguments], standalone_mode=False)
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_a_bench_writes_its_json_and_its_picture(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_harmonic, "run", lambda device, batch, quick, done, *_: done(rows))
    monkeypatch.setattr(cli_bench, "set_up_logging", lambda *_, **__: None)
    figures, picture = tmp_path / "b.json", tmp_path / "b.svg"
    app.app(["bench", "harmonic", "--json", str(figures), "--plot", str(picture)], standalone_mode=False)
    assert json.loads(figures.read_text())["rows"] == rows
    assert "<svg" in picture.read_text()[:1000]
    with pytest.raises(OutputError, match=r"b\.json: cannot be written: No such file"):
        results.write_json(tmp_path / "gone/b.json", {}, rows)


def test_kernels_that_do_not_compile_are_left_out(caplog):
    x, weight = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)

    def broken():
        raise RuntimeError("Failed to find C compiler")

    assert bench_harmonic.compiles(lambda: x * weight, x, weight)
    assert not caplog.messages
    assert not bench_harmonic.compiles(broken, x, weight)
    assert caplog.messages == ["the Triton kernels are left out: RuntimeError: Failed to find C compiler"]
