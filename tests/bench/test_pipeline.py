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

from hlfeat.audio.resample import Resampler
from hlfeat.bench import pipeline as bench_pipeline
from hlfeat.bench import tables
from hlfeat.bench.pipeline import COMPUTE, DECODE, PLAIN, RESAMPLE, WHOLE, WRITE, Held, MemoryLoader, ReadingEngine
from hlfeat.config.loading import load_config
from hlfeat.errors import UsageError
from hlfeat.extraction import clip_loader
from hlfeat.extraction import extract as extraction_extract
from hlfeat.extraction import setup as extraction_setup
from hlfeat.extraction.clip_loader import ClipLoader
from hlfeat.extraction.cpu_engine import CpuEngine
from hlfeat.extraction.events import LoadedClip
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.inputs.collect import Inputs, collect_inputs
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
    return bench_pipeline.hold(loader_of(limits), inputs.clips, True, most)


def test_a_row_for_every_stage(inputs, tmp_path):
    lines = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    rows = bench_pipeline.run({"tiny": CONFIG}, inputs, Options(), CPU, scratch, 2, lines.append, lines.append)
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
    tables.write_json(tmp_path / "b.json", "pipeline", CPU, rows)
    assert json.loads((tmp_path / "b.json").read_text())["rows"] == rows


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

    def compute(self, stream):
        for event in super().compute(stream):
            if not isinstance(event, LoadedClip):
                self.features += [features for channel in event.channels for features, _ in channel]
            yield event

    def compute_long(self, *arguments):
        clip = super().compute_long(*arguments)
        return replace(clip, channels=[self.note(channel) for channel in clip.channels])

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
    assert all(isinstance(item, LoadedClip) for item in reading.compute(items))
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
    assert list((tmp_path / "s").iterdir()) == []
    shutil.rmtree(tmp_path / "s")
    result = invoke(*args, "--scratch", tmp_path / "s")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
