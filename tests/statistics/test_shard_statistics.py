"""Statistics beside shards: they describe the written features, whatever failed or was stopped on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import hlfeat
from hlfeat import files
from hlfeat.audio import reader
from hlfeat.errors import InterruptedRunError, OutputError
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.options import Limits, Options
from hlfeat.partition import WHOLE, Part
from hlfeat.statistics.moments import moments
from hlfeat.statistics.shard_statistics import ShardStatistics, read_shard_statistics
from hlfeat.storage import publisher
from hlfeat.storage.layout import Layout, indexed_shards
from hlfeat.storage.output_dir import OutputDir
from tests import helpers
from tests.extraction.runs import contents, run
from tests.statistics.test_moments import check


def sidecars(out: Path, bands: int = 8) -> dict[str, ShardStatistics]:
    return {p.name: read_shard_statistics(p, 2, bands) for p in sorted(out.glob("stats-*.json"))}


def check_against_data(out: Path) -> None:
    indexes = sorted(out.glob("shard-*.jsonl"))
    statistics = sidecars(out)
    assert list(statistics) == [shard.statistics.name for shard in indexed_shards(out)]
    store = hlfeat.FeatureStore(out)
    for index, shard in zip(indexes, statistics.values(), strict=True):
        ids = [json.loads(line)["id"] for line in index.read_text().splitlines()]
        features = [store[i] for i in ids]
        check(shard.moments, np.concatenate(features))
        assert shard.clips == len(ids)
        assert shard.constant == [i for i, y in zip(ids, features, strict=True) if len(y) > 1 and (y == y[0]).all()]
        assert set(shard.silent) <= set(ids)


def odd_clips(folder: Path) -> None:
    """Silence, a constant, one frame, and clips that fail: while they are read, and while they are computed."""
    folder.mkdir(exist_ok=True)
    put = lambda name, x: soundfile.write(folder / name, np.asarray(x, np.float32), 16000, subtype="FLOAT")  # noqa: E731
    put("silent.wav", np.zeros(8000))
    put("mixed-to-nothing.wav", np.stack([helpers.tone(0.3, 16000), -helpers.tone(0.3, 16000)], 1))
    put("short.wav", np.zeros(10))
    put("late.wav", np.concatenate([np.zeros(20_000), helpers.tone(0.2, 16000)]))
    put("loud.wav", np.full(9000, 1e30))
    put("nan.wav", [*helpers.tone(1, 16000), np.nan])


@pytest.fixture(params=["cpu", "device"])
def way(request, monkeypatch):
    if request.param == "device":
        monkeypatch.setattr("hlfeat.extraction.one_device.make_engine", BatchEngine)


@pytest.mark.parametrize("form", ["npy", "pt"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_are_those_of_what_was_written(clips, tmp_path, way, form, dtype):
    odd_clips(clips / "odd")
    run(clips, tmp_path / "out", "output.shard_size=5", f"output.format={form}", f"output.dtype={dtype}")
    check_against_data(tmp_path / "out")
    statistics = list(sidecars(tmp_path / "out").values())
    silent = ["odd/mixed-to-nothing.wav", "odd/short.wav", "odd/silent.wav"]
    assert [i for shard in statistics for i in shard.silent] == silent
    assert "odd/silent.wav" in [i for shard in statistics for i in shard.constant]


@pytest.mark.parametrize("form", ["npy", "pt"])
def test_of_long_clips_and_without_those_that_fail_on_the_way(tmp_path, monkeypatch, way, form):
    """Every channel is an entry: where the second is bad, the first must leave the sums too."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, bad in (("a", False), ("b", True), ("c", False)):
        x = rng.uniform(-0.5, 0.5, (60_000, 2)).astype(np.float32)
        x[:, 0] *= name != "c"
        x[40_000:, 1] = 0  # the end alone is not silence
        if bad:
            x[-5, 1] = np.nan
        soundfile.write(folder / f"{name}.wav", x, 16000, subtype="FLOAT")
    monkeypatch.setattr(reader, "BLOCK_SAMPLES", 20_000)
    limits = Limits(long_samples=30_000, window_samples=10_000)
    run(folder, tmp_path / "out", "audio.channels=each", f"output.format={form}", limits=limits)
    check_against_data(tmp_path / "out")
    (shard,) = sidecars(tmp_path / "out").values()
    assert (shard.clips, shard.silent) == (4, ["c.wav#0"])


def test_of_parts_and_names(clips, tmp_path):
    for part in WHOLE.split(2):
        run(clips, tmp_path / "out", "output.shard_size=3", options=Options(quiet=True, part=part))
    assert list(sidecars(tmp_path / "out")) == [f"stats-p{i}of2-{n:05d}.json" for i in (1, 2) for n in (0, 1)]
    assert Layout(Path(), Part(16, 2)).statistics(3) == Path("stats-p02of16-00003.json")
    check_against_data(tmp_path / "out")


def test_are_taken_back_and_cleaned_away(clips, tmp_path):
    out = tmp_path / "out"
    run(clips, out, "output.shard_size=5")
    want = contents(out)
    with OutputDir(out) as output:
        output.catalog.take_back(1)
    assert {name for name in want if not (out / name).exists()} == {
        "shard-00001.jsonl", "shard-00001.npy", "stats-00001.json"}  # fmt: skip
    (out / "stats-00007.json").write_text("of a shard that was never finished")
    (out / "stats-00000.json.tmp").write_text("half")
    (out / "stats-p1of2-00000.json").write_text("another part's")
    (out / "stats.json").write_text("somebody's")
    run(clips, out, "output.shard_size=5")
    assert contents(out) == {**want, "stats.json": b"somebody's", "stats-p1of2-00000.json": b"another part's"}
    run(clips, out, "seed=3", options=Options(quiet=True, overwrite=True))
    assert sorted(p.name for p in out.glob("stats*")) == ["stats-00000.json", "stats.json"]


def test_come_after_the_data_and_before_the_index(clips, tmp_path, monkeypatch):
    order = []
    publish = files.publish
    for module in (files, publisher):
        monkeypatch.setattr(module, "publish", lambda a, b: (order.append(b.name), publish(a, b)))
    run(clips, tmp_path / "out")
    assert [n for n in order if "0000" in n] == ["shard-00000.npy", "stats-00000.json", "shard-00000.jsonl"]


def test_a_directory_of_an_earlier_version_goes_on_without(clips, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InterruptedRunError):
        run(clips, out, "output.shard_size=3", stopped=lambda: any(out.glob("shard-*.jsonl")))
    before = sorted(p.stem for p in out.glob("shard-*.jsonl"))
    assert before
    for path in out.glob("stats-*"):
        path.unlink()
    run(clips, out, "output.shard_size=3")
    assert len(hlfeat.FeatureStore(out)) == 12
    assert read_shard_statistics(out / f"{before[0].replace('shard', 'stats')}.json", 2, 8) is None
    assert sidecars(out)


def test_read_back_to_the_bit_and_damage_is_one_line(tmp_path):
    shard = ShardStatistics.of(2, 8)
    x = torch.randn(50, 2, 8, generator=torch.Generator().manual_seed(0)).numpy()
    shard.add("ä\udcff", moments(x), True)
    path = tmp_path / "stats-00000.json"
    path.write_bytes(shard.dump())
    read = read_shard_statistics(path, 2, 8)
    assert (read.clips, read.silent, read.constant, read.moments.frames) == (1, ["ä\udcff"], [], 50)
    for name in ("mean", "m2", "min", "max"):
        np.testing.assert_array_equal(getattr(read.moments, name), getattr(shard.moments, name))
    fields = json.loads(path.read_text())
    for change in (
        {"hlfeat": "statistics"}, {"clips": -1}, {"frames": 1.5}, {"silent": "a"}, {"constant": [1]}, {"mean": None},
        {"mean": [[1.0] * 8]}, {"m2": [[-1.0] * 8] * 2}, {"max": [[1e400] * 8] * 2}, {"min": [["x"] * 8] * 2},
    ):  # fmt: skip
        path.write_text(json.dumps({**fields, **change}))
        with pytest.raises(OutputError, match=r"stats-00000\.json: damaged: "):
            read_shard_statistics(path, 2, 8)
    for text in ("", "[" * 100_000, "[]", "\xff"):
        path.write_bytes(text.encode("latin1"))
        with pytest.raises(OutputError, match=r"stats-00000\.json: damaged: "):
            read_shard_statistics(path, 2, 8)
