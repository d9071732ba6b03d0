"""Runs on a device that is not there: order, failures, shard ends and features are those of a CPU."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hlfeat
from hlfeat.audio.clip import Clip
from hlfeat.errors import InterruptedRunError, TooManyFailuresError
from hlfeat.extraction import batch_engine, one_device
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.device_queue import PlainQueue
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.process_pool import ProcessPool
from hlfeat.inputs.collect import Inputs
from hlfeat.nn.frontends.leaf import EfficientLeaf
from tests import helpers
from tests.extraction.fake_cuda import FakeCuda, engines_on
from tests.extraction.runs import run

LONG = 12000  # samples; longer clips are computed in windows

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Short and long clips in turn, of many kinds; some are broken at once, some in the middle."""
    folder = helpers.good_clips(tmp_path_factory.mktemp("clips"), 10, longest=1.5)
    helpers.broken_clips(folder / "d0/broken")
    for i, seconds in enumerate((2.0, 3.1, 0.76)):
        x = np.stack([helpers.tone(seconds, 8000, 150 + 50 * i + c, i) for c in range(1 + i % 2)], 1)
        soundfile.write(folder / f"d1/long {i}.flac", x, 8000)
    loud = helpers.tone(1.5, 16000)
    loud[-100:] = 1e30  # computing it fails in the last window
    soundfile.write(folder / "d1/long loud.wav", loud, 16000, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory) -> Callable[..., Path]:
    """What a CPU writes, by the overrides."""
    made: dict[tuple[str, ...], Path] = {}

    def expect(*overrides: str) -> Path:
        if overrides not in made:
            out = made[overrides] = tmp_path_factory.mktemp("cpu") / "out"
            run(folder, out, *overrides, limits=Limits(long_samples=LONG, window_samples=4000, window_frames=50))
        return made[overrides]

    return expect


def index_of(out: Path) -> dict[str, list[dict[str, object]]]:
    """The lines of each shard's index, but for the checksums: features are rounded otherwise."""
    lines = {p.name: map(json.loads, p.read_text().splitlines()) for p in sorted(out.glob("shard-*.jsonl"))}
    return {name: [{**line, "crc32": 0} for line in index] for name, index in lines.items()}


def assert_same_but_for_rounding(out: Path, want: Path) -> None:
    assert index_of(out) == index_of(want)
    assert (out / "failures.jsonl").read_bytes() == (want / "failures.jsonl").read_bytes()
    assert {p.name for p in out.iterdir()} == {p.name for p in want.iterdir()}
    got = hlfeat.FeatureStore(out)
    for id_, y in hlfeat.FeatureStore(want):
        scale = max(1, np.abs(y.astype(np.float64)).max())
        np.testing.assert_allclose(got[id_], y, rtol=0, atol=(2e-3 if y.dtype == np.float16 else 1e-5) * scale)
    for a, b in zip(sorted(out.glob("stats-*.json")), sorted(want.glob("stats-*.json")), strict=True):
        for key in ("frames", "clips"):
            assert json.loads(a.read_text()).get(key) == json.loads(b.read_text()).get(key)


class Memory:
    """Memory that does not suffice now and then for several rows together, never for one."""

    def __init__(self, seed: int, share: float) -> None:
        self._random, self._share = np.random.default_rng(seed), share
        self.failures = 0

    def check(self, rows: int) -> None:
        if rows > 1 and self._random.random() < self._share:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory")


OVERRIDES = [
    ("output.shard_size=1",),
    ("output.shard_size=4", "output.format=pt"),
    ("output.shard_size=40kB", "audio.channels=each"),
    ("output.shard_size=1GB", "output.dtype=float16"),
    ("output.shard_size=3", "output.pool=mean"),
]


@settings(max_examples=settings.default.max_examples // 5)  # a run of a second each
@given(
    overrides=st.sampled_from(OVERRIDES),
    batch_seconds=st.sampled_from([0.01, 0.4, 2.0, 64.0, "auto"]),
    workers=st.integers(1, 3),
    block=st.sampled_from([1, 12000, 1 << 25]),
    block_clips=st.sampled_from([2, 1 << 13]),
    long_reads=st.integers(1, 4),
    long_bytes=st.sampled_from([1, 1 << 26]),
    share=st.sampled_from([0.0, 0.2, 0.9]),
    seed=st.integers(0, 99),
)
def test_a_device_writes_what_a_cpu_writes(
    folder,
    expected,
    tmp_path_factory,
    overrides,
    batch_seconds,
    workers,
    block,
    block_clips,
    long_reads,
    long_bytes,
    share,
    seed,
):
    want, out = expected(*overrides), tmp_path_factory.mktemp("device") / "out"
    cuda, memory = FakeCuda(), Memory(seed, share)
    cuda.fails = memory.check
    limits = Limits(
        long_samples=LONG,
        window_samples=4000,
        window_frames=50,
        block_samples=block,
        block_clips=block_clips,
        long_reads=long_reads,
        long_bytes=long_bytes,
    )
    bands = EfficientLeaf.compute_bands

    def compute_bands(self, x, lengths):
        memory.check(len(x))
        return bands(self, x, lengths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_device, "make_engine", engines_on(cuda))
        patch.setattr(EfficientLeaf, "compute_bands", compute_bands)
        options = Options(quiet=True, batch_seconds=batch_seconds, workers=workers)
        run(folder, out, *overrides, options=options, limits=limits)
    assert_same_but_for_rounding(out, want)
    assert cuda.wrong_device == []
    assert {device for _, _, device in cuda.operations} == {1}
    assert cuda.current_device() == 0
    emptied = sum(name == "empty cache" for name, _, _ in cuda.operations)
    assert emptied == memory.failures or batch_seconds == "auto"  # the trial fails in two runs, and is not repeated
    if overrides[0] == "output.shard_size=1":  # batches do not cross the end of a shard
        assert set(cuda.copied[2 * (batch_seconds == "auto") :]) <= {1}
    elif batch_seconds == 64.0 and block == 1 << 25 and block_clips > 2 and share == 0:
        assert max(cuda.copied) > 1
    assert [t.name for t in threading.enumerate() if t.name.startswith(("finish", "long clip"))] == []


WITHOUT_MEDIAN = "frontend.compression={kind: logtbn, median_filter: false, append_filtered: false}"
LIMITS = Limits(long_samples=LONG, window_samples=4000, window_frames=50, block_samples=16000)


def run_on(cuda: FakeCuda, folder: Path, out: Path, *overrides: str, limits: Limits = LIMITS, **kwargs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_device, "make_engine", engines_on(cuda))
        return run(folder, out, *overrides, limits=limits, **kwargs)


def test_stopped_anywhere_and_resumed(folder, expected, tmp_path):
    overrides = ("output.shard_size=4", "output.format=pt")
    out, stops = tmp_path / "out", 0
    options = Options(quiet=True, batch_seconds=2.0, workers=2)
    for patience in range(1, 400, 17):
        asked: list[int] = []

        def stopped(asked: list[int] = asked, patience: int = patience) -> bool:
            asked.append(1)
            return len(asked) > patience

        try:
            run_on(FakeCuda(), folder, out, *overrides, options=options, stopped=stopped)
            break
        except InterruptedRunError:
            stops += 1
            assert not list(out.glob("*.tmp"))
            assert [t.name for t in threading.enumerate() if t.name.startswith(("finish", "long clip"))] == []
    assert stops >= 3
    assert_same_but_for_rounding(out, expected(*overrides))


@pytest.mark.parametrize("options", [{"on_error": "stop"}, {"max_failures": 20}])
def test_too_many_failures_end_a_run_at_the_same_clip(folder, tmp_path, options):
    settings = Options(quiet=True, batch_seconds=2.0, workers=2, **options)
    outs = [tmp_path / "cpu", tmp_path / "device"]
    with pytest.raises(TooManyFailuresError) as want:
        run(folder, outs[0], "output.shard_size=2", options=settings, limits=LIMITS)
    with pytest.raises(TooManyFailuresError) as got:
        run_on(FakeCuda(), folder, outs[1], "output.shard_size=2", options=settings)
    assert str(got.value) == str(want.value)
    assert index_of(outs[0]) == index_of(outs[1])
    assert (outs[0] / "failures.jsonl").read_bytes() == (outs[1] / "failures.jsonl").read_bytes()


def test_an_error_of_the_device_ends_the_run(folder, tmp_path):
    cuda = FakeCuda()

    def fail(rows):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    cuda.fails = fail
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run_on(cuda, folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("shard-*"))


@pytest.fixture
def trap(monkeypatch, tmp_path):
    """A file that is there once something has called CUDA, in this process or in one that it forks."""
    touched = tmp_path / "touched"

    def touch(*_, **__):
        with open(touched, "a") as file:
            traceback.print_stack(file=file)
        raise AssertionError("CUDA was used")

    for name in ("_lazy_init", "init", "current_device", "set_device", "get_device_name", "mem_get_info", "Stream",
                 "Event", "device", "synchronize", "empty_cache", "max_memory_allocated", "memory_stats"):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, touch)
    return touched


def test_workers_touch_no_cuda(folder, expected, tmp_path, trap):
    """FakeCuda refuses calls from forked processes; torch.cuda itself is not called at all."""
    overrides = ("output.shard_size=4", "output.format=pt")
    run_on(FakeCuda(), folder, tmp_path / "out", *overrides, options=Options(quiet=True, batch_seconds=2.0, workers=2))
    assert_same_but_for_rounding(tmp_path / "out", expected(*overrides))
    assert not trap.exists()
    with pytest.raises(AssertionError, match="CUDA was used"):
        torch.cuda.current_device()
    assert trap.exists()


def test_the_parent_of_several_devices_touches_no_cuda(tmp_path, trap):
    folder = helpers.good_clips(tmp_path / "clips", 3, longest=0.2)
    report = run(folder, tmp_path / "out", options=Options(quiet=True, device="cpu,cpu", workers=1))
    assert report.clips == 3
    assert not trap.exists()


def test_the_device_is_selected_for_the_run_once_processes_are_forked(tmp_path, monkeypatch):
    folder = helpers.good_clips(tmp_path / "clips", 1, longest=0.2)
    steps = []

    @contextmanager
    def on_device(device):
        steps.append(f"on {device}")
        yield
        steps.append("restored")

    def pool(*arguments):
        steps.append("pool")
        return ProcessPool(*arguments)

    monkeypatch.setattr(one_device, "on_device", on_device)
    monkeypatch.setattr(one_device, "make_pool", pool)
    run(folder, tmp_path / "out", finished_shard=lambda path: steps.append("shard"))
    assert steps == ["pool", "on cpu", "shard", "restored"]


def test_the_run_does_not_wait_for_batches_itself(tmp_path):
    """Threads do; and all of a block's batches are uploaded before one is wanted."""
    folder = helpers.good_clips(tmp_path / "clips", 12, longest=0.3)
    cuda = FakeCuda()
    run_on(cuda, folder, tmp_path / "out", options=Options(quiet=True, batch_seconds=0.3), limits=DEFAULT_LIMITS)
    assert len(cuda.copied) > 3
    assert cuda.waiting
    assert all(name.startswith("finish") for name in cuda.waiting)


def test_the_next_windows_are_on_their_way_while_features_are_downloaded(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", helpers.tone(3, 16000), 16000)
    cuda, bands, groups = FakeCuda(), EfficientLeaf.compute_bands, list[int]()

    def compute_bands(self, x, lengths):
        cuda.note("bands")
        groups.append(len(x))
        return bands(self, x, lengths)

    monkeypatch.setattr(EfficientLeaf, "compute_bands", compute_bands)
    inputs = Inputs([Clip("a.wav", str(tmp_path / "a.wav"))])
    run_on(cuda, inputs, tmp_path / "out", WITHOUT_MEDIAN, options=Options(quiet=True, batch_seconds=0.5))
    names = [name for name, _, _ in cuda.operations if name in ("bands", "download", "synchronize")]
    assert groups[1:-1] == [2] * (len(groups) - 2)  # the first and the last window may be shorter
    assert len(groups) > 4
    group_of = [g for g, windows in enumerate(groups) for _ in range(windows)]  # of each chunk
    waits = [i for i, name in enumerate(names) if name == "synchronize"]
    for chunk, i in enumerate(waits):
        assert names[:i].count("bands") >= min(len(groups), group_of[chunk] + 2)
    assert len(waits) == len(group_of)


def test_auto_follows_the_memory_of_the_device(tmp_path):
    folder = helpers.good_clips(tmp_path / "clips", 12, longest=2.5)
    most = []
    for peak in (1 << 10, 1 << 30):
        cuda = FakeCuda(free=1 << 30, peak=peak)
        out = tmp_path / str(peak)
        run_on(cuda, folder, out, options=Options(quiet=True), limits=DEFAULT_LIMITS)
        assert cuda.copied[:2] == [4, 4]  # the trial
        assert [name for name, _, _ in cuda.operations].count("peak bytes") == 1
        most.append(max(cuda.copied[2:]))
    assert most[0] >= most[1] > 1
    assert Options().batch_samples(16000) is None
    assert Options(batch_seconds=2).batch_samples(16000) == 32000


def test_a_long_clip_for_which_memory_does_not_suffice_fails_alone(folder, tmp_path, monkeypatch):
    bands = EfficientLeaf.compute_bands

    def compute_bands(self, x, lengths):
        if x.shape[1] > 4000 and lengths is None:  # windows
            raise RuntimeError("CUDA error: out of memory")
        return bands(self, x, lengths)

    monkeypatch.setattr(EfficientLeaf, "compute_bands", compute_bands)
    report = run_on(FakeCuda(), folder, tmp_path / "out", options=Options(quiet=True, batch_seconds=64.0))
    failed = {f["id"]: f["message"] for f in report.failures if f["code"] == "out-of-memory"}
    assert {f"d1/long {i}.flac" for i in (0, 1, 2)} <= set(failed)
    assert set(failed.values()) == {"too long for the memory of cuda:1"}
    assert report.clips > 3


def test_a_device_without_float64_has_its_sums_made_on_the_host(folder, expected, tmp_path, monkeypatch):
    class WithoutFloat64(PlainQueue):
        def __init__(self):
            super().__init__(torch.device("cpu"))
            self.float64 = False

    def make(*arguments):
        return BatchEngine(*arguments, queue=WithoutFloat64())

    monkeypatch.setattr(one_device, "make_engine", make)
    monkeypatch.setattr(batch_engine, "sums_of", lambda *_: pytest.fail("float64 on the device"))
    overrides = ("output.shard_size=4", "output.format=pt")
    run(folder, tmp_path / "out", *overrides, limits=LIMITS)
    assert_same_but_for_rounding(tmp_path / "out", expected(*overrides))
    for a, b in zip(*(sorted(p.glob("stats-*.json")) for p in (tmp_path / "out", expected(*overrides))), strict=True):
        got, want = (json.loads(p.read_text()) for p in (a, b))
        np.testing.assert_allclose(got["mean"], want["mean"], atol=1e-5)
