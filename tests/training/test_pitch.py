"""scripts/train.py --task pitch: its loss, its accuracy, and what a run ends in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import hlfeat
from hlfeat import UsageError
from tests import helpers
from tests.training.running import metrics, table, train

RATE = 16000


def example(train_data, train_tracks, hertz: float, seconds: float = 0.5, label: float | None = None):
    """A tone, labelled with its frequency or with another."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = torch.from_numpy(0.3 * np.sin(2 * np.pi * hertz * t)).float()
    return train_data.Example(wave, "pitch", "one", track=train_tracks.Track.of_note(label or hertz))


def task_of(train_pitch, train_data, examples):
    return train_pitch.Pitch(hlfeat.load_config("log-mel"), train_data.Parts(examples, examples, []))


def test_accuracy_of_known_distances(train_pitch, train_data, train_tracks):
    """An untrained mel spectrogram peaks where a tone is; so a label tells how far it is."""
    tones = [2000.0, 2345.0, 3000.0]
    cases = {0.0: 1.0, 40.0: 1.0, -60.0: 0.0, 1200.0: 0.0}
    for cents, accuracy in cases.items():
        examples = [example(train_data, train_tracks, f, label=f * 2 ** (cents / 1200)) for f in tones]
        result = task_of(train_pitch, train_data, examples).measure(examples, amp=False)
        assert result["rpa"] == pytest.approx(accuracy, abs=0.1)  # the window is cut at both ends of a clip
        assert result["cents"] == pytest.approx(abs(cents), abs=5)


def test_the_loss_divides_a_frequency_between_two_rows(train_pitch, train_data, train_tracks):
    """Against the formula, written with a target for every row; rows in any order; what has no pitch is left out."""
    task = task_of(train_pitch, train_data, [example(train_data, train_tracks, 1000)])
    extractor = task.model.extractor
    freqs = extractor.frontend.centre_freqs().double().numpy()
    hertz = float(freqs[30] ** 0.75 * freqs[31] ** 0.25)
    examples = [example(train_data, train_tracks, hertz, seconds) for seconds in (0.1, 0.06)]
    track = train_tracks.Track(np.array([0, 0.01, 0.02, 0.03]), np.array([hertz, 0, hertz, 8500]), 0.01)
    examples[0] = replace(examples[0], track=track)
    logits = torch.randn(2, len(freqs), 10, generator=torch.Generator().manual_seed(0), requires_grad=True)

    loss = task.loss(logits, examples)
    loss.backward()
    target = torch.zeros(len(freqs))
    target[30], target[31] = 0.75, 0.25
    used = [(0, 0), (0, 2), *((1, n) for n in range(6))]  # 0.06 s are six frames
    each = [torch.nn.functional.cross_entropy(logits[b, :, n], target) for b, n in used]
    assert loss.item() == pytest.approx(float(sum(each).detach()) / len(used), rel=1e-5)
    learnt_from = logits.grad.abs().sum(1) > 0
    assert learnt_from.nonzero().tolist() == [list(place) for place in used]

    crossed = torch.randperm(len(freqs), generator=torch.Generator().manual_seed(1))
    extractor.frontend.centre_freqs = lambda: torch.from_numpy(freqs)[crossed]
    task.rows = train_pitch.Rows.of(extractor)
    assert task.loss(logits[:, crossed], examples).item() == pytest.approx(loss.item(), rel=1e-6)


def test_a_batch_without_pitch_has_no_loss(train_pitch, train_data, train_tracks):
    task = task_of(train_pitch, train_data, [example(train_data, train_tracks, 1000)])
    logits = torch.randn(1, 80, 10, requires_grad=True)
    loss = task.loss(logits, [example(train_data, train_tracks, 1000, 0.1, label=9000)])
    loss.backward()
    assert (loss.item(), logits.grad.abs().max().item()) == (0, 0)


POOLED = {"frontend": {"kind": "log-mel"}, "stack": [{"layer": "pool", "frames": 4}]}


def test_pitch_is_looked_up_where_frames_are(train_pitch, train_data, train_tracks):
    """Also in a part of a clip, and after pooling: the first of four frames' mean is at 15 ms."""
    times = np.arange(200) / 100
    whole = replace(
        example(train_data, train_tracks, 1000, 2.0), track=train_tracks.Track(times, 1000 + 100 * times, 0.01)
    )
    part = train_data.crops([whole], RATE // 2, np.random.default_rng(0))[0]
    assert len(part.wave) == RATE // 2
    assert torch.equal(part.wave, whole.wave[part.start : part.start + RATE // 2])
    assert part.start > 0
    for config, first, step in ((hlfeat.load_config("log-mel"), 0, 0.01), (POOLED, 0.015, 0.04)):
        task = train_pitch.Pitch(hlfeat.Config.model_validate(config), train_data.Parts([whole], [], []))
        hertz = task.hertz(part)
        seconds = part.start / RATE + first + step * np.arange(len(hertz))
        np.testing.assert_allclose(hertz, 1000 + 100 * seconds, rtol=1e-6)


def test_one_channel_comes_out(train_pitch, train_data, train_tracks):
    examples = [example(train_data, train_tracks, 1000)]
    one = {"frontend": {"kind": "log-mel"}, "stack": [{"layer": "harmonic", "out_channels": 1}]}
    for config, layers in (("log-mel", 0), (one, 1), ("eleaf-harmonic", 5)):
        loaded = hlfeat.load_config(config) if isinstance(config, str) else hlfeat.Config.model_validate(config)
        task = train_pitch.Pitch(loaded, train_data.Parts(examples, [], []))
        assert task.model.extractor.n_channels == 1
        assert len(task.config.stack) == layers
        assert hlfeat.build(task.config).n_channels == 1
        # a factor is trained only where no last layer can scale
        assert ("log_scale" in dict(task.model.named_parameters())) == (layers == 0)


def test_rows_keep_their_frequencies_in_training(train_pitch, train_data, train_tracks):
    """They are what pitch is read from. All else learns: here to tell tones from their harmonics more surely."""
    examples = [example(train_data, train_tracks, hertz) for hertz in (220, 330.5, 447, 800)]
    task = train_pitch.Pitch(hlfeat.load_config("pitch-salience"), train_data.Parts(examples, [], []))
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    x, lengths = hlfeat.pad([e.wave for e in examples])
    optimizer = torch.optim.AdamW(hlfeat.parameter_groups(task.model, 1e-3))
    losses = []
    for _ in range(4):
        loss = task.loss(task.model(x, lengths), examples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True), losses
    assert losses[-1] < losses[0]
    kept = [name for name, p in task.model.named_parameters() if torch.equal(p, before[name])]
    assert kept == ["extractor.frontend.filterbank.center_freqs"]


def test_frames_that_are_left_out_are_counted(train_pitch, train_data, train_tracks, capsys):
    track = train_tracks.Track(np.arange(30) / 100, np.array([500.0] * 10 + [0.0] * 12 + [9000.0] * 8), 0.01)
    examples = [replace(example(train_data, train_tracks, 500), track=track)]
    task_of(train_pitch, train_data, examples)
    expected = "frames to train with: 10; left out: 12 without pitch, 20 beyond their tracks, 8 with a pitch outside"
    assert expected in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"^frames to train with: 0; left out: 50 with a pitch outside the rows"):
        task_of(train_pitch, train_data, [example(train_data, train_tracks, 9000)])


def notes(folder: Path) -> Path:
    """Notes of four instruments, whose harmonics have other amplitudes; a table of their pitches beside them."""
    rows = [("path", "frequency", "instrument")]
    for k, instrument in enumerate(["flute", "horn", "oboe", "viola"]):
        (folder / instrument).mkdir(parents=True)
        for i in range(6):
            hertz = 500 * 2 ** (i / 4 + k / 16)
            t = np.arange(RATE // 2) / RATE
            x = sum((0.5 + k / 8) ** h * np.sin(2 * np.pi * h * hertz * t) for h in range(1, 4))
            noise = np.random.default_rng(i).normal(size=len(t))
            soundfile.write(folder / instrument / f"{i}.wav", 0.2 * x + 0.003 * noise, RATE)
            rows.append((f"{instrument}/{i}.wav", hertz, instrument))
    return table(folder.with_suffix(".csv"), rows)


SMALL = """
frontend: {kind: log-mel}
stack:
  - {layer: harmonic, out_channels: 8, kernel: [4, 3]}
  - {layer: activation, kind: relu}
  - {layer: conv, out_channels: 4, kernel: [3, 3]}
"""


def test_a_run_ends_in_a_salience(tmp_path, train_pitch):
    labels, out = notes(tmp_path / "notes"), tmp_path / "run"
    (tmp_path / "small.yaml").write_text(SMALL)
    options = ["--task", "pitch", "--labels", labels, "--group-by", "instrument", "--config", tmp_path / "small.yaml"]
    result = train(tmp_path / "notes", "--out", out, *options, "--epochs", 10, "--batch", 2, "--lr", 0.01)
    assert result.returncode == 0, result.stderr
    assert "train: held out 6 of 24 clips (1 of 4 groups; seed 0)" in result.stderr
    first, *_, last = metrics(out)
    assert set(first) == {"epoch", "loss", "rpa", "cents", "filters_moved"}
    assert last["loss"] < 0.5 * first["loss"]
    assert last["rpa"] > 0.8
    assert last["cents"] < 30
    line = f"held-out raw pitch accuracy {last['rpa']:.1%} (median distance {last['cents']:.1f} cents), filters moved"
    assert line in result.stderr
    *trained, mix = hlfeat.load_config(out / "config.yaml").stack
    assert tuple(trained) == hlfeat.load_config(tmp_path / "small.yaml").stack
    assert (mix.layer, mix.out_channels, mix.kernel) == ("conv", 1, (1, 1))

    model = hlfeat.build(out / "config.yaml", weights=out / "weights.safetensors").eval()
    wave = hlfeat.load_audio(tmp_path / "notes/horn/2.wav", RATE)
    with torch.no_grad():
        salience = model(wave)[:, 0]
    track = hlfeat.pitch(salience, model.frontend.centre_freqs())
    wanted = 500 * 2 ** (2 / 4 + 1 / 16)
    assert 1200 * abs(np.log2(float(track.frequency.median()) / wanted)) < 50
    np.testing.assert_allclose(
        hlfeat.FeatureStore(out / "features")["horn/2.wav"][:, 0],
        salience[0].T,
        atol=1e-4 * float(salience.abs().max()),
    )


def test_tracks_beside_clips_and_in_a_folder(tmp_path):
    """Speakers are folders, or said by a table; a test part is looked at once."""
    clips, tracks = tmp_path / "clips", tmp_path / "tracks"
    rows = [("path", "speaker", "part")]
    for speaker, part in (("ann", "train"), ("bob", "train"), ("eve", "valid"), ("jim", "test")):
        (clips / speaker).mkdir(parents=True)
        (tracks / speaker).mkdir(parents=True)
        track = [("time", "frequency", "confidence"), *((n / 100, 500 if n > 9 else 0, 1) for n in range(50))]
        for name in ("0", "1"):
            soundfile.write(clips / speaker / f"{name}.wav", helpers.tone(0.5, RATE, 500), RATE)
            table(clips / speaker / f"{name}.f0.csv", track)
            table(tracks / speaker / f"{name}.wav.f0.csv", track)
            rows.append((f"{speaker}/{name}.wav", speaker, part))
    soundfile.write(clips / "alone.wav", helpers.tone(0.5, RATE, 500), RATE)
    labels = table(tmp_path / "clips.csv", rows)
    options = ["--task", "pitch", "--epochs", 1, "--config", "log-mel", "--batch", 2]

    beside = train(clips, "--out", tmp_path / "run", *options)
    assert beside.returncode == 0, beside.stderr
    assert "train: 1 of 9 clips have no track and are not used, such as alone.wav" in beside.stderr
    assert "train: held out 2 of 8 clips (1 of 4 groups; seed 0)" in beside.stderr
    assert "train: frames to train with: 240; left out: 60 without pitch\n" in beside.stderr

    for path in clips.rglob("*.f0.csv"):
        path.unlink()
    split = ["--labels", labels, "--split-by", "part", "--tracks", tracks]
    divided = train(clips, "--out", tmp_path / "run-2", *options, *split)
    assert divided.returncode == 0, divided.stderr
    assert "train: train 4, valid 2, test 2 clips, as the table divides" in divided.stderr
    assert set(metrics(tmp_path / "run-2")[0]) >= {"rpa", "cents", "test_rpa", "test_cents"}
    assert "test raw pitch accuracy" in divided.stderr


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ("{layer: projection, features: 8}", "expected rows with frequencies, to find a pitch in; a projection's have"),
        ("{layer: pool, bands: 40}", "expected three rows or more, to find a pitch between, got 2"),
    ],
)
def test_rows_that_show_no_pitch(tmp_path, stack, message):
    labels = notes(tmp_path / "notes")
    config = tmp_path / "bad.yaml"
    config.write_text(f"frontend: {{kind: log-mel}}\nstack: [{stack}]\n")
    result = train(tmp_path / "notes", "--out", tmp_path / "run", "--task", "pitch", "--labels", labels, "-c", config)
    assert result.returncode == 2
    *_, last = result.stderr.splitlines()
    assert last.startswith(f"train: error: --config: {message}")
    assert not (tmp_path / "run").exists()


def test_tracks_are_for_pitch(tmp_path):
    result = train(tmp_path, "--out", tmp_path / "run", "--tracks", tmp_path)
    assert (result.returncode, result.stderr) == (2, "train: error: --tracks: expected --task pitch with it\n")
