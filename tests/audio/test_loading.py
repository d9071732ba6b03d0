"""load_audio: the samples that a run computes with, from several threads, and errors that name the clip."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import hlfeat
from hlfeat import Clip, ClipError, UsageError, load_audio
from hlfeat.audio.clip import Span
from tests import helpers


def stereo(path: Path, rate: int = 16000) -> np.ndarray:
    """A file of two tones; its samples [T, 2]."""
    samples = np.stack([helpers.tone(0.5, rate, 300), helpers.tone(0.5, rate, 500)], 1).astype(np.float32)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return samples


def test_channels_and_segments_to_the_sample(tmp_path):
    samples = stereo(tmp_path / "a.wav")
    path = str(tmp_path / "a.wav")
    for channels, expected in (("each", samples.T), ("first", samples.T[:1]), (1, samples.T[1:])):
        torch.testing.assert_close(load_audio(path, 16000, channels), torch.from_numpy(expected), rtol=0, atol=0)
    assert load_audio(Path(path), 16000).shape == (1, 8000)
    segment = load_audio(Clip("x", path, start=0.1, end=0.2, channel=1), 16000, "each")
    torch.testing.assert_close(segment, torch.from_numpy(samples.T[1:, 1600:3200]), rtol=0, atol=0)


def test_features_are_those_of_a_run(tmp_path):
    (tmp_path / "clips").mkdir()
    stereo(tmp_path / "clips/a.flac.wav", 22050)
    config = hlfeat.load_config("log-mel")
    inputs = hlfeat.collect_inputs([str(tmp_path / "clips")])
    hlfeat.extract(config, inputs, tmp_path / "out", hlfeat.Options(quiet=True))
    extractor = hlfeat.build(config).eval()
    with torch.no_grad():
        y = extractor(load_audio(inputs.clips[0], config.audio.sample_rate, config.audio.channels))  # [1, C, F, N]
    (_, features), *rest = hlfeat.FeatureStore(tmp_path / "out")
    assert not rest
    np.testing.assert_allclose(y[0].permute(2, 0, 1), features, atol=1e-5)  # float32 rounding of other batch sizes


def test_threads_get_the_same_samples(tmp_path):
    for i, rate in enumerate((8000, 11025, 44100, 48000)):
        stereo(tmp_path / f"{i}.wav", rate)
    paths = [tmp_path / f"{i % 4}.wav" for i in range(32)]
    with ThreadPoolExecutor(4) as threads:
        for x, path in zip(threads.map(lambda p: load_audio(p, 16000), paths), paths, strict=True):
            assert torch.equal(x, load_audio(path, 16000))


def test_errors_name_the_clip_on_one_line(tmp_path):
    (tmp_path / "new\nline.wav").write_bytes(b"this is text")
    with pytest.raises(ClipError, match=r"/new\\nline\.wav: not-audio: not an audio file") as caught:
        load_audio(tmp_path / "new\nline.wav", 16000)
    assert caught.value.code == "not-audio"
    with pytest.raises(ClipError, match=r"a\.tar: b\.wav: unsupported: reason"):
        load_audio(Clip("x", "a.tar", span=Span("b.wav", 0, 1, (0, 0)), fault=("unsupported", "reason")), 1)


@pytest.mark.parametrize("rate", [0, -1, 16000.0, True, "16000"])
def test_impossible_rates(rate):
    with pytest.raises(UsageError, match="sample_rate: expected a whole number of hertz from 1, got "):
        load_audio("a.wav", rate)


@pytest.mark.parametrize("channels", ["mono", -1, True, None, 0.5])
def test_impossible_channels(channels):
    with pytest.raises(UsageError, match="channels: expected mix, first, each or a number from 0, got "):
        load_audio("a.wav", 16000, channels)
