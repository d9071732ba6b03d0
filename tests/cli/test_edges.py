"""`audio.edges` through the command: extract, stats, pitch, plot, bench, and folders that were begun without it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import hlfeat as package
from hlfeat.audio.clip import Clip
from hlfeat.config.loading import load_config
from hlfeat.plotting.clip_view import view
from tests import helpers
from tests.cli.test_cli import failed
from tests.extraction.runs import contents

CHEAP = ["-c", "log-mel", "--set", "frontend.n_filters=40", "--device", "cpu", "--workers", 1]
CONTEXT, REFLECT = ["--set", "audio.edges=context"], ["--set", "audio.edges=reflect"]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Four seconds at 44.1 kHz, and segs.csv with segments of it, which begin on frames."""
    x = helpers.tone(4, 44100) + 0.02 * np.random.default_rng(0).standard_normal(4 * 44100)
    soundfile.write(tmp_path / "a.flac", x, 44100)
    rows = [("begin", 0, 0.7), ("middle", 0.7, 1.85), ("third", 1.85, 3.2), ("end", 3.2, 4)]
    with (tmp_path / "segs.csv").open("w") as file:
        csv.writer(file).writerows([("id", "path", "start", "end"), *((i, "a.flac", a, b) for i, a, b in rows)])
    return tmp_path / "a.flac"


def off_at_the_edges(out: Path, whole: np.ndarray) -> float:
    """How far the segments are from the rows of the whole, put one after the other."""
    store = package.FeatureStore(out)
    rows = np.concatenate([store[i] for i in ("begin", "middle", "third", "end")])
    assert rows.shape == whole.shape
    return float(np.abs(rows - whole).max())


def test_extract_with_context_from_a_manifest(hlfeat, recording, tmp_path):
    assert hlfeat("extract", recording, "-o", tmp_path / "whole", *CHEAP).returncode == 0
    whole = package.FeatureStore(tmp_path / "whole")["a.flac"]
    for name, more in (("zeros", []), ("reflect", REFLECT), ("context", CONTEXT)):
        result = hlfeat("extract", "--manifest", tmp_path / "segs.csv", "-o", tmp_path / name, *CHEAP, *more)
        assert result.returncode == 0, result.stderr
        assert hlfeat("inspect", tmp_path / name, "--verify").returncode == 0
    assert off_at_the_edges(tmp_path / "zeros", whole) > 1
    assert off_at_the_edges(tmp_path / "context", whole) < 1e-4
    assert yaml.safe_load((tmp_path / "context/hlfeat.yaml").read_text())["config"]["audio"]["edges"] == "context"
    again = hlfeat("extract", "--manifest", tmp_path / "segs.csv", "-o", tmp_path / "context", *CHEAP, *CONTEXT)
    assert "4 of 4 clips are done already" in again.stderr


def test_a_folder_of_other_edges_is_refused_and_one_without_the_key_continued(invoke, recording, tmp_path):
    run = ["extract", "--manifest", tmp_path / "segs.csv", "-o", tmp_path / "out", *CHEAP]
    assert invoke(*run, "--set", "output.shard_size=1").returncode == 0
    assert "edges" not in (tmp_path / "out/hlfeat.yaml").read_text()  # as versions wrote it that did not know the key
    want = contents(tmp_path / "out")
    failed(invoke(*run, "--set", "output.shard_size=1", *CONTEXT), 2, "audio.edges")
    for path in tmp_path.glob("out/*-00003.*"):
        path.unlink()
    again = invoke(*run, "--set", "output.shard_size=1", "--set", "audio.edges=zeros")
    assert "3 of 4 clips are done already" in again.stderr
    assert contents(tmp_path / "out") == want


def test_the_key_is_explained_and_mistakes_are_one_line(invoke, tmp_path):
    shown = invoke("config", "show", "log-mel", "--set", "audio.edges=reflect").stdout
    assert "edges: reflect " in shown
    assert "edges: zeros " in invoke("config", "show", "log-mel").stdout
    (tmp_path / "c.yaml").write_text(shown)
    assert load_config(str(tmp_path / "c.yaml")).audio.edges == "reflect"
    schema = json.loads(invoke("config", "schema").stdout)
    assert schema["$defs"]["AudioConfig"]["properties"]["edges"]["enum"] == ["zeros", "reflect", "context"]
    wrong = invoke("config", "check", "log-mel", "--set", "audio.edges=reflected")
    failed(wrong, 2, "--set audio.edges=reflected: audio.edges: expected ")
    assert "did you mean reflect?" in wrong.stderr


def test_statistics_are_those_of_the_features(invoke, recording, tmp_path):
    for name, more in (("zeros", []), ("reflect", REFLECT), ("context", CONTEXT)):
        run = ["--manifest", tmp_path / "segs.csv", *CHEAP, *more]
        assert invoke("extract", *run, "-o", tmp_path / name).returncode == 0
        assert invoke("stats", *run, "-o", tmp_path / f"{name}.json").returncode == 0
        assert invoke("stats", tmp_path / name, "-o", tmp_path / f"{name}-of-folder.json").returncode == 0
        clips, folder = (json.loads((tmp_path / f"{name}{s}.json").read_text()) for s in ("", "-of-folder"))
        np.testing.assert_allclose(clips.pop("mean"), folder.pop("mean"), rtol=1e-6)
        assert clips["fingerprint"] == folder["fingerprint"]
    other = invoke("extract", *run, "-o", tmp_path / "n", "--stats", tmp_path / "zeros.json")
    failed(other, 2, "statistics of other features")


def test_pitch_of_segments_is_that_of_the_recording(invoke, recording, tmp_path):
    invoke("pitch", recording, "-o", tmp_path / "whole", "-c", "pitch-salience")
    run = ["pitch", "--manifest", tmp_path / "segs.csv", "-c", "pitch-salience"]
    assert invoke(*run, "-o", tmp_path / "zeros").returncode == 0
    result = invoke(*run, "-o", tmp_path / "context", *CONTEXT)
    assert result.returncode == 0, result.stderr

    def track(*paths: Path) -> np.ndarray:
        return np.concatenate([np.loadtxt(p, delimiter=",", skiprows=1)[:, 1:] for p in paths])

    (whole,) = (tmp_path / "whole").rglob("*.f0.csv")
    names = [f"{i}.f0.csv" for i in ("begin", "middle", "third", "end")]
    parts = {e: track(*(next((tmp_path / e).rglob(n)) for n in names)) for e in ("zeros", "context")}
    np.testing.assert_allclose(parts["context"], track(whole), rtol=1e-3, atol=2e-3)
    assert np.abs(parts["zeros"] - track(whole)).max() > 0.01
    failed(invoke(*run, "-o", tmp_path / "zeros", *CONTEXT), 2, "audio.edges")


STACK = "stack=[{layer: conv, out_channels: 2, kernel: [3, 5]}, {layer: pool, bands: 1, frames: 3}]"


@pytest.mark.parametrize("edges", ["zeros", "reflect", "context"])
@pytest.mark.parametrize("name", ["eleaf-8g-opt", "log-mel"])
@pytest.mark.parametrize("stack", [(), (STACK,)])
def test_a_picture_shows_what_extract_writes(recording, tmp_path, edges, name, stack):
    few = ["frontend.n_filters=16", *(["frontend.num_groups=4"] if name != "log-mel" else [])]
    config = load_config(name, [*few, f"audio.edges={edges}", *stack])
    inputs = package.collect_inputs([str(tmp_path / "segs.csv")])
    package.extract(config, inputs, tmp_path / "out", package.Options(device="cpu", workers=1, quiet=True))
    for clip in inputs.clips:
        drawn = view(clip, config, "title")
        features = package.FeatureStore(tmp_path / "out")[clip.id]
        images = drawn.stack if stack else drawn.frontend
        np.testing.assert_allclose(np.stack([i.values for i in images]).transpose(2, 0, 1), features, atol=1e-4)
        assert drawn.span == pytest.approx((clip.start, clip.end))
        assert drawn.frontend[0].values.shape[1] == -(-drawn.waveform.samples // 160)


def test_plot_and_bench_take_it(invoke, recording, tmp_path):
    result = invoke("plot", recording, "--start", 1, "--end", 2, "-o", tmp_path / "p.png", *CHEAP[:4], *CONTEXT)
    assert result.returncode == 0, result.stderr
    (tmp_path / "c.yaml").write_text("frontend: {kind: log-mel}\naudio: {edges: reflect}\n")
    run = ["bench", "pipeline", tmp_path / "segs.csv", "-c", tmp_path / "c.yaml", "--laps", 1, "--workers", 1]
    result = invoke(*run, "--device", "cpu", "--scratch", tmp_path)
    assert result.returncode == 0, result.stderr


def test_clips_with_a_channel_of_their_own(recording, tmp_path):
    """A row of a manifest that names a channel is no segment: the whole of it has nothing around it."""
    x = np.stack([helpers.tone(1, 16000), helpers.tone(1, 16000, 900)], 1)
    soundfile.write(tmp_path / "two.wav", x, 16000)
    clips = [Clip("0", str(tmp_path / "two.wav"), channel=1), Clip("1", str(tmp_path / "two.wav"), 0.5, channel=1)]
    inputs = package.Inputs(clips)
    config = load_config("log-mel", ["audio.edges=context"])
    package.extract(config, inputs, tmp_path / "out", package.Options(device="cpu", workers=1, quiet=True))
    store = package.FeatureStore(tmp_path / "out")
    np.testing.assert_allclose(store["1"], store["0"][50:], atol=1e-4)
