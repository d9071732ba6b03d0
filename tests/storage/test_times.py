"""Seconds of frames and windows, against clicks in silence and against counting in fractions."""

from __future__ import annotations

import json
import re
from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import save_file

import hlfeat
from hlfeat.extraction.pooling import Windows
from hlfeat.storage.times import Timing, timing_of
from tests.helpers import ROOT

EVERY_LAYER = str(ROOT / "tests/contract/every_layer.yaml")
SECONDS = 1.2037  # no whole number of frames
CLICKS = np.random.default_rng(0).uniform(0.1, SECONDS - 0.1, 12)
FRONTENDS = {
    "eleaf": ["frontend.n_filters=16", "frontend.num_groups=4"],
    "leaf": ["frontend.n_filters=8", "frontend.compression=logtbn"],
    "log-mel": ["frontend.window_stride=16"],
    "spectrogram": ["frontend.window_stride=7.5"],
}
STACKS = {
    "mean of 3": "[{layer: pool, frames: 3}]",
    "maximum of 4": "[{layer: pool, kind: max, frames: 4, bands: 2}]",
    "stride 2": "[{layer: conv, out_channels: 1, kernel: [1, 3], stride: [1, 2], bias: false}]",
    "pool, stride and pool": "[{layer: pool, frames: 2}, {layer: residual, layers: [{layer: conv, out_channels: 2, "
    "kernel: [1, 3], stride: [1, 3], bias: false}]}, {layer: pool, frames: 2}]",
}


@pytest.fixture
def clicks(tmp_path):
    """A file for each click, of the rates 16, 22.05 and 48 kHz; and one of silence."""
    (tmp_path / "clips").mkdir()
    for i, seconds in enumerate([*CLICKS, None]):
        rate = [16000, 22050, 48000][i % 3]
        x = np.zeros(round(SECONDS * rate), np.float32)
        if seconds is not None:
            x[round(seconds * rate)] = 0.9
        name = "silence" if seconds is None else f"{i:02}"
        soundfile.write(tmp_path / f"clips/{name}.wav", x, rate, subtype="FLOAT")
    return tmp_path / "clips"


def features(clips, out, name, *overrides, weights=None):
    """Weights of a stack are all 1, where it has any."""
    config = hlfeat.load_config(name, overrides)
    state = hlfeat.build(config).state_dict()
    weights = None
    if any(key.startswith("stack") for key in state):
        ones = {k: torch.ones_like(v) if k.startswith("stack") else v.clone() for k, v in state.items()}
        save_file(ones, out.parent / "weights.safetensors")
        weights = out.parent / "weights.safetensors"
    hlfeat.extract(config, [clips], out, hlfeat.Options(workers=1, quiet=True, weights=weights))
    return hlfeat.FeatureStore(out)


def loudest(store, id_):
    """The row that differs most from silence."""
    apart = np.abs(store[id_] - store["silence.wav"])
    return int(apart.reshape(len(apart), -1).sum(1).argmax())


def check_clicks(store, inside):
    """Each click is in the row whose centre is nearest, and whose interval has it. `inside`: of the hop, at least so
    much from the border to the next row."""
    tried = 0
    for i, seconds in enumerate(CLICKS):
        times, intervals = store.times(f"{i:02}.wav"), store.intervals(f"{i:02}.wav")
        from_border = np.abs(np.append(intervals[:, 0], intervals[-1, 1]) - seconds).min()
        if from_border < inside * np.diff(times).max():
            continue
        tried += 1
        row = loudest(store, f"{i:02}.wav")
        assert row == np.abs(times - seconds).argmin()
        assert intervals[row, 0] <= seconds < intervals[row, 1]
    assert tried > len(CLICKS) / 3


@pytest.mark.parametrize("name", FRONTENDS)
def test_a_click_is_in_the_frame_that_is_nearest(clicks, tmp_path, name):
    base = "eleaf-default" if name == "eleaf" else name if name != "spectrogram" else "linear-harmonic"
    stack = ["stack=[]"] if name == "spectrogram" else []
    store = features(clicks, tmp_path / "out", base, *FRONTENDS[name], *stack)
    hop = {"log-mel": 256, "spectrogram": 120}.get(name, 160)
    check_clicks(store, 0.1)
    times = store.times("00.wav")
    assert times.tolist() == [float(Fraction(hop * i, 16000)) for i in range(len(times))]


@pytest.mark.parametrize("stack", STACKS)
def test_a_click_is_in_the_row_of_a_stack_that_is_nearest(clicks, tmp_path, stack):
    store = features(clicks, tmp_path / "out", "log-mel", f"stack={STACKS[stack]}")
    check_clicks(store, 0.2)


def test_a_click_is_in_its_windows(clicks, tmp_path):
    store = features(clicks, tmp_path / "out", "log-mel", "output.pool=window:0.25")
    check_clicks(store, 0.1)
    intervals = store.intervals("01.wav")
    assert intervals.tolist() == [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1.0], [1.0, 26542 / 22050]]
    np.testing.assert_array_equal(store.times("01.wav"), intervals.mean(1))


@pytest.mark.parametrize("pool", ["mean", "mean+std", "max"])
def test_a_clip_that_is_pooled_as_a_whole_lasts_all_of_it(clicks, tmp_path, pool):
    store = features(clicks, tmp_path / "out", "log-mel", f"output.pool={pool}")
    assert store.intervals("01.wav").tolist() == [[0, 26542 / 22050]]
    assert store.times("01.wav").tolist() == [26542 / 22050 / 2]


@pytest.mark.parametrize("seed", range(20))
def test_windows_pool_the_frames_between_start_and_end(seed):
    """In fractions, at rates that divide nothing."""
    random = np.random.default_rng(seed)
    rate, hop = int(random.integers(8000, 48001)), int(random.integers(80, 800))
    step = f"{random.uniform(0.11, 0.5):.3f}"
    length = f"{float(step) + random.uniform(0, 0.3):.3f}"
    pool, frames = f"window:{length},{step}", int(random.integers(1, 500))
    windows = Windows.of(pool, Fraction(rate, hop))
    duration = ((frames - 1) * hop + 1) / rate  # the shortest clip of so many frames
    rows = windows.count(frames)
    intervals = Timing(rate, hop, 0.0, pool).intervals(rows, duration)
    assert (intervals[:, 0] < intervals[:, 1]).all()
    assert intervals[-1, 1] == duration
    for w, (start, end) in enumerate(intervals.tolist()):
        assert start == float(w * Fraction(step))
        assert end == min(float(w * Fraction(step) + Fraction(length)), duration)
        exact = w * Fraction(step), w * Fraction(step) + Fraction(length)
        inside = [n for n in range(frames) if exact[0] <= Fraction(n * hop, rate) < exact[1]]
        assert inside == list(range(windows.first(w), min(windows.end(w), frames)))


def test_frames_share_the_clip():
    """Half-way between centres, from the beginning to the end, at a rate that does not divide."""
    timing = Timing(44100, 441 * 2 + 1, 441.5)
    times, intervals = timing.times(5, 0.1), timing.intervals(5, 0.1)
    assert times.tolist() == [(441.5 + 883 * i) / 44100 for i in range(5)]
    assert (intervals[0, 0], intervals[-1, 1]) == (0.0, 0.1)
    np.testing.assert_array_equal(intervals[1:, 0], intervals[:-1, 1])
    np.testing.assert_allclose(intervals[1:, 0], (times[1:] + times[:-1]) / 2, rtol=1e-15)
    assert timing.times(0, 0.0).shape == (0,)
    assert timing.intervals(0, 0.0).shape == (0, 2)
    assert timing.intervals(1, 0.1).tolist() == [[0.0, 0.1]]


def test_a_segment_counts_from_its_start(clicks, tmp_path):
    rows = [{"path": str(clicks / "00.wav"), "id": "a", "start": float(CLICKS[0]) - 0.05}]
    (tmp_path / "list.jsonl").write_text(json.dumps(rows[0]) + "\n")
    hlfeat.extract(
        hlfeat.load_config("log-mel"), [tmp_path / "list.jsonl"], tmp_path / "out", hlfeat.Options(workers=1)
    )
    store = hlfeat.FeatureStore(tmp_path / "out")
    row = int(store["a"].sum((1, 2)).argmax())
    assert store.times("a")[row] == pytest.approx(0.05, abs=0.005)
    assert store.record("a")["start"] + store.times("a")[row] == pytest.approx(CLICKS[0], abs=0.005)


def as_before(folder):
    """As an earlier version has written it."""
    path = folder / "hlfeat.yaml"
    text, n = re.subn(r"(?m)^  (sample_rate|first_centre_samples|window_(hop_)?seconds): .*\n", "", path.read_text())
    assert n >= 2
    path.write_text(text)


@pytest.mark.parametrize("pool", ["null", "window:0.25,0.125"])
def test_folders_of_earlier_versions_have_times_too_and_are_continued(clicks, tmp_path, pool):
    overrides = "log-mel", f"stack={STACKS['pool, stride and pool']}", f"output.pool={pool}"
    store = features(clicks, tmp_path / "out", *overrides)
    times = {id_: store.times(id_) for id_, _ in store}
    as_before(tmp_path / "out")
    soundfile.write(clicks / "z.wav", np.zeros(16000, np.float32), 16000)
    store = features(clicks, tmp_path / "out", *overrides)
    assert len(store) == len(times) + 1
    for id_, seconds in times.items():
        np.testing.assert_array_equal(store.times(id_), seconds)
    other = tmp_path / "other"
    other.mkdir()
    soundfile.write(other / "new.wav", np.zeros(16000, np.float32), 16000)
    features(other, tmp_path / "new", *overrides)
    assert len(hlfeat.FeatureStore(tmp_path / "new", tmp_path / "out")) == len(store) + 1


@pytest.mark.parametrize("config", [*hlfeat.config_names(), EVERY_LAYER])
def test_the_configuration_tells_what_the_modules_know(config, tmp_path):
    config = hlfeat.load_config(config)
    extractor = hlfeat.build(config)
    description = {"features": {"hop_samples": extractor.hop}, "config": config.model_dump(mode="json")}
    timing = timing_of(description, tmp_path)
    assert timing == Timing(extractor.sample_rate, extractor.hop, extractor.first_centre)


@pytest.mark.parametrize(
    "text",
    [
        "features: {channels: 2, bands: 5}\n",
        "features: {channels: 1, bands: 5, hop_samples: 160, frames_per_second: 100.0}\n",
        "features: {channels: 1, bands: 5, hop_samples: 160, sample_rate: 16000}\nconfig: {stack: [{layer: later}]}\n",
        "features: {channels: 1, bands: 5, hop_samples: 5, sample_rate: 16000}\n"
        "config: {stack: [{layer: pool, frames: 2}]}\n",
        "features: {channels: 1, bands: 5, hop_samples: 5, sample_rate: 0, first_centre_samples: 0}\n",
        "features: {hop_samples: 5, sample_rate: 10, first_centre_samples: 0, pool: 'window:1/0'}\n",
    ],
)
def test_what_is_not_known_is_an_error(text, tmp_path):
    with pytest.raises(hlfeat.OutputError, match=rf"{tmp_path}: the times of frames are not known"):
        timing_of(yaml.safe_load(text), tmp_path)
