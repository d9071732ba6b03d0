"""The HEAR benchmark's API: the rules of hearbenchmark.com/hear-api.html, and what the embeddings are."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from hlfeat import build, hear
from hlfeat.errors import ConfigError

LOG_MEL = "frontend: {kind: log-mel, n_filters: 8}\n"
POOLED = LOG_MEL + "stack: [{layer: pool, frames: 2}, {layer: pool, frames: 3, bands: 2}]\n"
ODD_RATE = "audio: {sample_rate: 22050}\nfrontend: {kind: log-mel, n_filters: 8, window_stride: 12.5}\n"
TWO_CHANNELS = "frontend: {n_filters: 8, num_groups: 2}\n"
TRAINED = TWO_CHANNELS + "stack: [{layer: projection, features: 12}]\n"


def noise(sounds: int, seconds: float, rate: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(sounds, int(seconds * rate), generator=generator) * 2 - 1


@pytest.fixture
def load(tmp_path):
    """The model of a configuration."""

    def load(text: str) -> hear.Embedder:
        (tmp_path / "c.yaml").write_text(text)
        return hear.load_model(str(tmp_path / "c.yaml"))

    return load


@pytest.mark.parametrize("text", ["", LOG_MEL, POOLED, ODD_RATE])
def test_the_rules_of_the_api(load, text):
    model = load(text) if text else hear.load_model()
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    assert model.sample_rate in (16000, 22050, 32000, 44100, 48000)
    assert type(model.sample_rate) is type(model.scene_embedding_size) is type(model.timestamp_embedding_size) is int
    for seconds in (1.07, 1.22, 1.98, 4.0):  # 1.22 s: a last pooled frame would be centred past the end
        audio = noise(2, seconds, model.sample_rate)
        embeddings, stamps = hear.get_timestamp_embeddings(audio, model)
        assert embeddings.dtype == torch.float32
        assert embeddings.shape == (2, stamps.shape[1], model.timestamp_embedding_size)
        assert stamps.shape[0] == 2
        assert torch.equal(stamps[0], stamps[1])
        gaps = stamps.double().diff(dim=1)
        interval = float(gaps.mean())
        assert 0 < interval <= 60
        assert (gaps - interval).abs().max() < 0.01  # ms: regular
        assert 0 <= stamps[0, 0] <= interval
        assert 1000 * seconds - interval <= stamps[0, -1] <= 1000 * seconds
        scenes = hear.get_scene_embeddings(audio, model)
        assert scenes.dtype == torch.float32
        assert scenes.shape == (2, model.scene_embedding_size)
        for y in (embeddings, stamps, scenes):
            assert y.isfinite().all()
            assert not y.requires_grad


@pytest.mark.parametrize("text", [LOG_MEL, POOLED])
def test_frames_are_centred_on_their_time_stamps(load, text):
    model = load(text)
    audio = torch.zeros(1, 16000)
    _, stamps = hear.get_timestamp_embeddings(audio, model)
    left, right = stamps[0, 5], stamps[0, 6]
    for time, a, b in [(left, 4, 6), ((left + right) / 2, 5, 6)]:  # a click as far from one frame as from the other
        click = audio.clone()
        click[0, round(float(time) * 16)] = 1
        y = hear.get_timestamp_embeddings(click, model)[0][0]
        torch.testing.assert_close(y[a], y[b], rtol=0, atol=1e-4)
        assert y[5].sum() > y[3].sum() + 1


def test_time_stamps_do_not_drift(load):
    model = load(ODD_RATE)  # a hop of 275 samples, 12.47 ms
    _, stamps = hear.get_timestamp_embeddings(torch.zeros(1, 22050 * 300), model)
    want = np.arange(stamps.shape[1]) * 275 / 22.05
    assert np.abs(stamps[0].numpy() - want).max() < 0.02
    assert want[-1] > 299_980


@pytest.mark.parametrize("text", [LOG_MEL, POOLED, TWO_CHANNELS, TRAINED])
def test_a_scene_is_mean_and_deviation_of_the_features(load, tmp_path, text):
    model = load(text)
    audio = noise(3, 1.3, 16000)
    extractor = build(tmp_path / "c.yaml").eval()
    with torch.no_grad():
        y = extractor(audio).double().numpy()  # [B, C, F, N]
    want = np.concatenate([y.mean(3).reshape(3, -1), y.std(3).reshape(3, -1)], axis=1)
    np.testing.assert_allclose(hear.get_scene_embeddings(audio, model), want, rtol=1e-4, atol=1e-4)
    embeddings, stamps = hear.get_timestamp_embeddings(audio, model)
    n = stamps.shape[1]
    np.testing.assert_allclose(embeddings, y.reshape(3, -1, y.shape[3])[..., :n].transpose(0, 2, 1), rtol=1e-5)


def test_many_sounds_are_computed_some_at_a_time(load, monkeypatch):
    model = load(LOG_MEL)
    audio = noise(5, 0.5, 16000)
    scenes, (embeddings, _) = hear.get_scene_embeddings(audio, model), hear.get_timestamp_embeddings(audio, model)
    sizes = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    monkeypatch.setattr(hear, "BATCH_SECONDS", 1.0)
    torch.testing.assert_close(hear.get_scene_embeddings(audio, model), scenes)
    torch.testing.assert_close(hear.get_timestamp_embeddings(audio, model)[0], embeddings)
    assert sizes == [2, 2, 1] * 2
    monkeypatch.setattr(hear, "BATCH_SECONDS", 0.1)  # a sound longer than that is computed alone
    torch.testing.assert_close(hear.get_scene_embeddings(audio, model), scenes)


@pytest.mark.parametrize("samples", [1, 100, 16000])
def test_silent_and_very_short_audio(load, samples):
    for model in (load(POOLED), hear.load_model()):
        scenes = hear.get_scene_embeddings(torch.zeros(2, samples), model)
        embeddings, stamps = hear.get_timestamp_embeddings(torch.zeros(2, samples), model)
        assert scenes.isfinite().all()
        assert embeddings.isfinite().all()
        assert stamps.shape[1] >= 1
        half = model.timestamp_embedding_size
        if samples == 1:
            assert not scenes[:, half:].any()


def test_weights_take_the_configuration_beside_them(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "c.yaml").write_text(TRAINED)
    extractor = build(tmp_path / "c.yaml").eval()
    with torch.no_grad():
        extractor.stack.layers[0].linear.bias += 3
    save_file(extractor.state_dict(), tmp_path / "w.safetensors")
    torch.save(extractor.state_dict(), tmp_path / "w.pt")
    audio = noise(2, 0.5, 16000)
    want = extractor(audio)[:, 0].transpose(1, 2).detach()
    for name in ("w.safetensors", "w.pt"):
        with pytest.raises(ConfigError, match=r"expected the weights' configuration in \S+w\.yaml or \S+config\.yaml"):
            hear.load_model(str(tmp_path / name))
    (tmp_path / "c.yaml").rename(tmp_path / "config.yaml")
    torch.testing.assert_close(hear.get_timestamp_embeddings(audio, hear.load_model(str(tmp_path / "w.pt")))[0], want)
    (tmp_path / "w.yaml").write_text(TRAINED)
    (tmp_path / "config.yaml").write_text(LOG_MEL)  # the one of the same name goes first
    model = hear.load_model(str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(hear.get_timestamp_embeddings(audio, model)[0], want)


def test_a_model_by_name():
    assert hear.load_model("log-mel").timestamp_embedding_size == 80
    with pytest.raises(ConfigError, match="no such configuration"):
        hear.load_model("log-mell")
    with pytest.raises(ConfigError, match="no such configuration file"):
        hear.load_model("nowhere/c.yaml")


def test_what_the_benchmark_advises_against_is_said(load, caplog):
    with caplog.at_level(logging.WARNING):
        load(LOG_MEL)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        load("audio: {sample_rate: 8000}\nfrontend: {kind: spectrogram}\nstack: [{layer: pool, frames: 6}]")
        load(TRAINED)
    rate, hop, weights = caplog.messages
    assert "rates 16000, 22050, 32000, 44100, 48000, not 8000 Hz" in rate
    assert "advises 50 ms from frame to frame at most, not 60" in hop
    assert "no weights: those of the stack are drawn at random" in weights


@pytest.mark.parametrize("audio", [torch.zeros(100), torch.zeros(2, 0), torch.zeros(2, 100, dtype=torch.int16)])
def test_audio_of_another_form(load, audio):
    model = load(LOG_MEL)
    for embed in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        with pytest.raises(ValueError, match=r"expected audio \[n_sounds, n_samples\] in floating point"):
            embed(audio, model)


def test_audio_of_other_precision(load):
    model = load(LOG_MEL)
    audio = noise(2, 0.5, 16000)
    want = hear.get_scene_embeddings(audio, model)
    torch.testing.assert_close(hear.get_scene_embeddings(audio.double(), model), want)
