"""Runs on a device that is not there: order, failures, shard ends and features are those of a CPU."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlfeat
from hlfeat.extraction import one_device
from hlfeat.extraction.options import Limits, Options
from hlfeat.nn.frontends.leaf import EfficientLeaf
from tests import helpers
from tests.extraction.fake_cuda import FakeCuda, engines_on
from tests.extraction.runs import run

LONG = 12000  # samples; longer clips are computed in windows


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
    if batch_seconds == 64.0 and block == 1 << 25 and block_clips > 2 and share == 0:
        assert max(cuda.copied) > 1
    assert [t.name for t in threading.enumerate() if t.name.startswith(("finish", "long clip"))] == []
