"""hlfeat bench pipeline: each stage does its own work, all of it and no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hlfeat import FeatureStore
from hlfeat.audio.clip import Clip
from hlfeat.audio.resample import Resampler
from hlfeat.bench import pipeline as bench_pipeline
from hlfeat.bench import stage_engines
from hlfeat.bench.cut_clips import cut
from hlfeat.bench.held_clips import Held, MemoryLoader, hold
from hlfeat.bench.pipeline import COMPUTE, DECODE, PLAIN, RESAMPLE, WHOLE, WRITE, Choices
from hlfeat.bench.results import Results
from hlfeat.bench.stage_engines import ReadingEngine
from hlfeat.config.loading import load_config
from hlfeat.errors import UsageError
from hlfeat.extraction import clip_loader, one_device
from hlfeat.extraction import extract as extraction_extract
from hlfeat.extraction import setup as extraction_setup
from hlfeat.extraction.clip_loader import ClipLoader
from hlfeat.extraction.cpu_engine import CpuEngine
from hlfeat.extraction.events import LoadedClip
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.run import Hooks
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.inspection.verify import verify
from hlfeat.storage.feature_dir import FeatureDir
from tests.helpers import broken_clips, good_clips

CPU = torch.device("cpu")
CONFIG = load_config("log-mel", ["output.shard_size=3", "frontend.n_filters=8"])


@pytest.fixture
def inputs(clips: Path) -> Inputs:
    broken_clips(clips / "broken")
    (clips / "broken" / "loud.wav").unlink()  # can be read; only its features cannot be
    return collect_inputs([str(clips)], stdin=None)  # type: ignore[arg-type]


def loader_of(limits: Limits = DEFAULT_LIMITS) -> ClipLoader:
    return ClipLoader(Resampler(CONFIG.audio.sample_rate), CONFIG.audio.channels, limits)


def held_by(inputs: Inputs, most: int = 1 << 30, limits: Limits = DEFAULT_LIMITS) -> Held:
    return hold(loader_of(limits), inputs.clips, True, most)


def test_a_row_for_every_stage(inputs, tmp_path):
    lines = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    table = Results(bench_pipeline.COLUMNS, lines.append)
    rows = bench_pipeline.run({"tiny": CONFIG}, inputs, Options(), CPU, scratch, 2, table.add, lines.append)
    assert table.rows == rows
    assert [r["stage"] for r in rows] == [DECODE, RESAMPLE, COMPUTE, WRITE, WHOLE, PLAIN]
    good = rows[0]["clips"]
    assert good == 12
    assert good + rows[0]["failed"] == len(inputs.clips)
    seconds = {r["stage"]: r["seconds"] for r in rows}
    whole = rows[4]
    assert whole["to_bound"] == pytest.approx((seconds[RESAMPLE] + seconds[COMPUTE]) / seconds[WHOLE])
    assert whole["to_plain"] == pytest.approx(seconds[PLAIN] / seconds[WHOLE])
    assert all(r["runs"] == 2 for r in rows)
    assert lines[0].count("\n") == 8
    assert f"{good} clips" in lines[1]
    assert list(scratch.iterdir()) == []
    durations = [soundfile.info(clip.path).duration for clip in held_by(inputs).clips]
    assert {(r["shortest"], r["longest"]) for r in rows} == {(min(durations), max(durations))}


def test_rows_as_workers_grow(inputs, tmp_path):
    assert bench_pipeline.fewer_workers(1) == {}
    assert list(bench_pipeline.fewer_workers(2).values()) == [1]
    assert list(bench_pipeline.fewer_workers(8).values()) == [1, 2, 4]
    options, done = Options(device="cpu", workers=3), []
    choices = Choices(zeros=True, scaling=True)
    rows = bench_pipeline.run({"tiny": CONFIG}, inputs, options, CPU, tmp_path, 1, done.append, len, choices)
    one, two = f"{WHOLE}, 1 worker", f"{WHOLE}, 2 workers"
    assert [r["stage"] for r in rows] == [DECODE, RESAMPLE, COMPUTE, WRITE, one, two, WHOLE, PLAIN]
    by_stage = {r["stage"]: r for r in rows}
    workers = {stage: row["workers"] for stage, row in by_stage.items()}
    assert workers == {DECODE: 3, RESAMPLE: 3, COMPUTE: 3, WRITE: None, one: 1, two: 2, WHOLE: 3, PLAIN: None}
    seconds = by_stage[one]["seconds"]
    for stage, row in by_stage.items():
        whole = stage in (one, two, WHOLE)
        assert row["to_one_worker"] == (pytest.approx(seconds / row["seconds"]) if whole else None)
        assert (row["to_decode"] is None) == (stage in (one, two))  # which has as many workers as were asked for
        assert row["clips_a_second"] == pytest.approx(12 / row["seconds"])
        assert row["engine"] == "none"
    assert done == [rows]


@pytest.mark.parametrize("long", [8000, 1 << 30])
def test_without_an_engine_features_are_zeros_of_the_same_clips(inputs, tmp_path, long):
    """And nothing is computed: all else is as in a run."""
    limits = Limits(long_samples=long)
    options = Options(device="cpu", quiet=True)
    extraction_extract.extract_clips(CONFIG, inputs, tmp_path / "out", options, limits=limits)
    report = one_device.extract_on_device(
        CONFIG, inputs, tmp_path / "zeros", limits, options, Hooks(), stage_engines.make_zeros_engine
    )
    assert report.clips == 12
    stored, zeros = (FeatureStore(tmp_path / name) for name in ("out", "zeros"))
    assert zeros.ids == stored.ids
    for id_ in stored.ids:
        assert zeros[id_].shape == stored[id_].shape
        assert zeros[id_].dtype == stored[id_].dtype
        assert not zeros[id_].any()
    assert list(verify(FeatureDir(tmp_path / "zeros"))) == []
    assert [p.name for p in sorted((tmp_path / "zeros").glob("shard-*"))] == [
        p.name for p in sorted((tmp_path / "out").glob("shard-*"))
    ]


def test_the_stages_get_the_engine_that_was_chosen(inputs, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("computed")

    monkeypatch.setattr(CpuEngine, "__init__", refuse)
    choices = Choices(zeros=True)
    rows = bench_pipeline.measure("tiny", CONFIG, inputs.clips, Options(workers=1), CPU, tmp_path, 1, choices=choices)
    assert {r["engine"] for r in rows} == {"none"}
    with pytest.raises(AssertionError, match="computed"):
        bench_pipeline.measure("tiny", CONFIG, inputs.clips, Options(workers=1), CPU, tmp_path, 1)


def ramp(path: Path, start: float, frames: int, rate: int = 16000) -> Clip:
    """A file whose samples rise by 2^-15 each."""
    soundfile.write(path, start + np.arange(frames) / 32768, rate, subtype="PCM_16")
    return Clip(path.name, str(path))


@pytest.mark.parametrize("long", [1000, 1 << 30])
def test_clips_are_cut_and_repeated(tmp_path, long):
    """2500 samples: two clips of 1000, without the rest; 400: two and a half times; 2000 at another rate: one clip."""
    given = [
        ramp(tmp_path / "a.wav", 0.0, 2500),
        Clip("none", str(tmp_path / "none")),
        ramp(tmp_path / "b.wav", 0.25, 400),
        ramp(tmp_path / "c.wav", 0.5, 2000, 32000),
    ]
    (tmp_path / "cut").mkdir()
    loader = loader_of(Limits(long_samples=long))
    made = cut(loader, given, 1000 / 16000, 6, 1 << 30, tmp_path / "cut")
    assert [Path(clip.path).name for clip in made] == [f"{n:06d}.wav" for n in range(6)]
    read = [soundfile.read(clip.path) for clip in made]
    assert [rate for _, rate in read] == [16000, 16000, 16000, 32000, 16000, 16000]
    whole = [soundfile.read(clip.path)[0] for clip in given if clip.id != "none"]
    a, b, c = whole
    expected = [a[:1000], a[1000:2000], np.concatenate([b, b, b[:200]]), c, a[:1000], a[1000:2000]]
    for (samples, _), part in zip(read, expected, strict=True):
        np.testing.assert_array_equal(samples, part)


def test_no_more_clips_are_cut_than_can_be_held(tmp_path):
    given = [ramp(tmp_path / "a.wav", 0.0, 2500)]
    assert len(cut(loader_of(), given, 0.01, 100, 160 * 4 * 3, tmp_path)) == 3
    with pytest.raises(UsageError, match="found none"):
        cut(loader_of(), [Clip("none", str(tmp_path / "none"))], 0.01, 100, 1 << 20, tmp_path)


def test_the_clips_that_are_measured(inputs, tmp_path):
    assert len(bench_pipeline.chosen_clips(inputs.clips, CONFIG, Choices(), tmp_path)) == len(inputs.clips)
    assert list(bench_pipeline.chosen_clips(inputs.clips, CONFIG, Choices(clips=3), tmp_path)) == inputs.clips[:3]
    assert list(tmp_path.glob("*.wav")) == []
    made = bench_pipeline.chosen_clips(inputs.clips, CONFIG, Choices(0.05, 40), tmp_path)
    assert len(made) == len(list(tmp_path.glob("*.wav"))) == 40
    assert {soundfile.info(clip.path).duration for clip in made} == {0.05}


def test_on_a_device_the_slowest_stage_is_the_bound():
    seconds = {DECODE: 2.0, RESAMPLE: 7.0, COMPUTE: 3.0, WRITE: 1.0}
    assert bench_pipeline.bound(seconds, on_cpu=False) == 3.0
    assert bench_pipeline.bound(seconds, on_cpu=True) == 10.0


class Noting(CpuEngine):
    """Notes the features that are computed."""

    def __init__(self, loader: ClipLoader) -> None:
        extractor, postprocessor, _ = extraction_setup.prepare(CONFIG, None, None)
        super().__init__(extractor.eval(), postprocessor, loader, np.dtype("float32"), DEFAULT_LIMITS)
        self.features: list[np.ndarray] = []

    def compute(self, *arguments):
        for clip in super().compute(*arguments):
            yield replace(clip, channels=[self.note(channel) for channel in clip.channels])

    def note(self, channel):
        for features, moments in channel:
            self.features.append(features)
            yield features, moments


@pytest.mark.parametrize("long", [8000, 1 << 30])
def test_compute_gives_the_features_of_a_run_without_reading(inputs, tmp_path, monkeypatch, long):
    limits = Limits(long_samples=long)
    extraction_extract.extract_clips(CONFIG, inputs, tmp_path / "out", Options(quiet=True), limits=limits)
    held = held_by(inputs, limits=limits)
    assert any(loaded.long for loaded in held.loaded.values()) == (long == 8000)
    monkeypatch.setattr(clip_loader, "Reader", None)
    computing = Noting(MemoryLoader(loader_of(), held))
    features = computing.features
    expected = np.concatenate([np.load(s) for s in sorted((tmp_path / "out").glob("*.npy"))])
    for _ in range(2):
        bench_pipeline.consume(computing, held.clips, 2, tmp_path)
        assert np.array_equal(np.concatenate(features), expected)
        features.clear()


def test_written_shards_are_as_large_as_those_of_a_run(inputs, tmp_path):
    extraction_extract.extract(CONFIG, inputs, tmp_path / "out", Options(quiet=True))
    extractor, postprocessor, _ = extraction_setup.prepare(CONFIG, None, None)
    (tmp_path / "w").mkdir()
    bench_pipeline.write(
        CONFIG, extractor, postprocessor, held_by(inputs), np.zeros((7, 1, 8), np.float32), tmp_path / "w"
    )

    def sizes(folder: Path) -> dict[str, int]:
        return {p.name: p.stat().st_size for p in folder.glob("*.npy")}

    assert sizes(tmp_path / "w") == sizes(tmp_path / "out")
    assert len(sizes(tmp_path / "w")) > 1


@pytest.mark.parametrize("resample", [False, True])
def test_reading_reads_and_computes_nothing(inputs, tmp_path, resample):
    held = held_by(inputs)
    reading = ReadingEngine(loader_of(), (1, 8), resample)
    items = [reading.in_worker([clip], lambda: False)[0] for clip in held.clips]
    assert all(isinstance(item, LoadedClip) for item in reading.compute(items, None, tmp_path, lambda: False))
    lengths = [len(item.waveforms[0]) for item in items]
    rates = [soundfile.info(clip.path) for clip in held.clips]
    assert len({r.samplerate for r in rates}) > 1
    assert lengths == [item.info.length if resample else info.frames for item, info in zip(items, rates, strict=True)]


def test_a_clip_that_is_held_is_read_once(inputs, tmp_path, monkeypatch):
    """A second reading, as for long clips, would count twice."""
    held, read = held_by(inputs), tmp_path / "read"  # a file, as processes read

    class Counting(clip_loader.Reader):
        def __init__(self, clip, *arguments):
            with open(read, "a") as f:
                print(ascii(clip.id), file=f)
            super().__init__(clip, *arguments)

    monkeypatch.setattr(clip_loader, "Reader", Counting)
    bench_pipeline.consume(ReadingEngine(loader_of(), (1, 8), resample=False), held.clips, 2, tmp_path)
    assert sorted(read.read_text().splitlines()) == sorted(ascii(clip.id) for clip in held.clips)


def test_long_clips_too(clips, tmp_path):
    limits = Limits(long_samples=8000)
    inputs = collect_inputs([str(clips)], stdin=None)  # type: ignore[arg-type]
    rows = bench_pipeline.measure("tiny", CONFIG, inputs.clips, Options(), CPU, tmp_path, 1, limits)
    assert all(r["seconds"] > 0 for r in rows)
    held = held_by(inputs, limits=limits)
    long = [c for c in held.clips if held.loaded[c.id].long]
    assert long
    for clip in long:
        assert sum(p.shape[1] for p in held.chunks[clip.id, 0]) == soundfile.info(clip.path).frames


def test_no_more_is_held_than_was_asked_for(inputs):
    everything = held_by(inputs)
    first = everything.loaded[everything.clips[0].id].nbytes
    assert len(held_by(inputs, most=first).clips) == 1
    assert len(held_by(inputs, most=first + 1).clips) == 2


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(UsageError, match="found none"):
        held_by(collect_inputs([str(tmp_path)], stdin=None))  # type: ignore[arg-type]


def test_the_command(invoke, tmp_path):
    good_clips(tmp_path / "c", 3)
    (tmp_path / "s").mkdir()
    args = ["bench", "pipeline", tmp_path / "c", "-c", "log-mel", "--laps", 1, "--workers", 1, "--device", "cpu"]
    result = invoke(*args, "--scratch", tmp_path / "s", "--json", tmp_path / "b.json")
    assert result.returncode == 0, result.stderr
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 6
    assert "3 clips" in result.stderr
    more = ["--clip-seconds", 0.1, "--clips", 7, "--engine", "none", "--scaling", "--workers", 2]
    result = invoke(*args, *more, "--scratch", tmp_path / "s", "--json", tmp_path / "b.json")
    assert result.returncode == 0, result.stderr
    assert "pipeline, 2 workers, clips of 0.1 s, engine none" in result.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [(r["clips"], r["engine"]) for r in rows] == [(7, "none")] * 7
    assert "whole, 1 worker" in result.stdout
    assert list((tmp_path / "s").iterdir()) == []
    shutil.rmtree(tmp_path / "s")
    result = invoke(*args, "--scratch", tmp_path / "s")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
