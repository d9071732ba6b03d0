"""How the constants of pitch-salience were chosen: the grid says what the configurations themselves would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hlfeat
from scripts.evidence import peer_choice, salience_choice, salience_grid, trackers
from scripts.evidence.clips import RATE, PitchClip, clips, noisy
from scripts.evidence.notes import Note, split
from scripts.evidence.salience_grid import CONFIGURATIONS, PAIRS, Frames, Setting, shipped
from tests.evidence.write_soundfont import SAMPLE, Font, Recording
from tests.evidence.write_soundfont import tone as int16_tone

CELLO, FLUTE = 42, 73  # programs, from 0


def note(name: str, frequency: float, seconds: float) -> Note:
    t = np.arange(round(seconds * RATE)) / RATE
    samples = sum(0.1 / h * np.sin(2 * np.pi * frequency * h * t) for h in range(1, 6)).astype(np.float32)
    return Note("oboe", "reeds", name, frequency, samples, RATE)


@pytest.fixture(scope="module")
def recordings() -> list[PitchClip]:
    return list(clips([note("a", 311.0, 0.3), note("b", 130.0, 0.5), note("c", 1234.5, 0.2)]))


def share_of(recordings, setting: Setting, noise: float | None) -> float:
    frames = salience_grid.clip_frames(recordings, noise, setting.rows, setting.window)
    found = salience_grid.accuracies(frames, setting.rows, setting.compression, setting.a)
    return found[setting.decay, setting.valley]


@pytest.mark.parametrize("rows", CONFIGURATIONS)
def test_the_grid_scores_a_configuration_as_the_comparison_does(recordings, rows):
    noise = -10.0  # where some frames are right, and some are not
    shares = [
        trackers.right_frames(clip, trackers.salience(noisy(clip, noise), CONFIGURATIONS[rows]))[0]
        for clip in recordings
    ]
    assert len(set(shares)) == 3
    assert share_of(recordings, shipped(rows), noise) == pytest.approx(np.mean(shares), abs=1e-12)


@pytest.mark.parametrize("rows", CONFIGURATIONS)
def test_the_shipped_constants_are_those_of_the_file_and_on_the_grid(rows):
    setting = shipped(rows)
    assert setting == Setting(rows, {12: 64.0, 24: 100.0}[rows], "relative-log", 1.5, 0.6, 1.0)
    assert setting.window in salience_grid.WINDOWS[rows]
    assert setting.a in salience_grid.EXPONENTS["relative-log"]
    assert (setting.decay, setting.valley) in PAIRS


def test_each_channel_has_the_weights_of_its_pair():
    conv = salience_grid.convolution(12)
    for i, (decay, valley) in enumerate(PAIRS):
        alone = hlfeat.LogHarmonicConv2d(1, 1, (21, 1), anchor=2, bins_per_octave=12, bias=False)
        hlfeat.init_salience_(alone, decay=decay, valley=valley)
        assert torch.equal(conv.weight[i], alone.weight[0])


def test_only_the_relative_logarithm_takes_no_notice_of_level():
    energies = torch.rand(1, 97, 4)
    for name, a in (("relative-log", 1.5), ("logtbn", 5.0)):
        compress = salience_grid.compression_of(name, 97, a)
        same = torch.allclose(compress(energies), compress(0.01 * energies), atol=1e-5)
        assert same == (name == "relative-log")
    assert torch.allclose(compress(energies), torch.log1p(1e5 * energies), rtol=1e-4)


def test_each_note_counts_once_whatever_its_length():
    frames = Frames(torch.zeros(1, 6), np.array([0, 0, 0, 0, 1, 1]), np.array([440.0] * 4 + [220.0] * 2))
    cents = torch.tensor([0.0, 49.0, -49.0, 0.0, 51.0, 0.0])
    hertz = torch.from_numpy(frames.hertz) * 2 ** (cents / 1200)
    assert salience_grid.score(hertz, frames) == 0.75
    hertz[0] = 0.0  # no pitch
    assert salience_grid.score(hertz, frames) == 0.625


def test_the_table_moves_one_constant_at_a_time_and_finds_the_best():
    shares = {}
    for rows, windows in salience_grid.WINDOWS.items():
        for window in windows:
            for compression, exponents in salience_grid.EXPONENTS.items():
                for a in exponents:
                    for pair in PAIRS:
                        shares[Setting(rows, window, compression, a, *pair)] = [0.5, 0.4, 0.3, 0.2]
    ours = shipped(12)
    shares[ours] = [0.9, 0.8, 0.7, 0.6]
    shares[ours._replace(decay=1.0)] = [0.99, 0.4, 0.3, 0.2]
    shares[ours._replace(window=50.0, valley=1.2)] = [0.1, 0.2, 0.3, 0.95]  # the greatest sum there
    shares[ours._replace(window=50.0, decay=1.0)] = [0.96, 0.1, 0.1, 0.1]
    lines = {line.split(" | ")[0].strip("| "): line for line in salience_choice.table(shares).splitlines()[2:]}
    flat = "50.0 | 40.0 | 30.0 | 20.0 |"
    assert lines["as shipped: 1.5, 0.6, 1"] == f"| as shipped: 1.5, 0.6, 1 | 90.0 | 80.0 | 70.0 | 60.0 | {flat}"
    assert lines["p = 1"] == f"| p = 1 | 99.0 | 40.0 | 30.0 | 20.0 | {flat}"
    assert lines["v = 1.2"] == f"| v = 1.2 | {flat[:-2]} | {flat}"
    assert "best, 50; 80 ms: 1.5, 0.6, 1.2; 1, 0.35, 0.8" in lines
    name = "best, 64; 100 ms: 1.5, 0.6, 1; 1, 0.35, 0.8"
    assert lines[name] == f"| {name} | 90.0 | 80.0 | 70.0 | 60.0 | {flat}"
    moved = dict(salience_choice.neighbours([12, 24]))
    assert len(moved) == 1 + 2 + 2 + 2 + 4 + 2
    for name, settings in moved.items():
        for setting in settings:
            differ = {f for f, x, y in zip(Setting._fields, setting, shipped(setting.rows), strict=True) if x != y}
            count = 0 if name.startswith("as shipped") else 2 if name.startswith("log") else 1
            assert len(differ) == count, name


def test_settings_reach_yin_and_pyin(recordings, monkeypatch):
    asked = []

    def librosa_of(name):
        def track(x, **options):
            asked.append((name, options["frame_length"], options.get("trough_threshold", options.get("resolution"))))
            hertz = np.full(1 + len(x) // 160, 311.0)
            return hertz if name == "yin" else (hertz, None, None)

        return track

    for name in ("yin", "pyin"):
        monkeypatch.setattr(trackers.librosa, name, librosa_of(name))
    lines = list(peer_choice.yin_lines(recordings))
    assert lines[0] == "YIN, frame 1280, threshold 0.1: clean 33.3, 20 dB 33.3, 10 dB 33.3, 0 dB 33.3"
    assert list(dict.fromkeys(asked)) == [("yin", f, t) for f in (1280, 2048) for t in (0.1, 0.2, 0.3)]
    asked.clear()
    lines = list(peer_choice.pyin_lines([*recordings, recordings[0], recordings[1]]))  # of five, two: a and b
    assert lines[0].startswith("pYIN of 2 notes, frame 1280, states of 0.1: clean 50.0, 0 dB 50.0; ")
    assert list(dict.fromkeys(asked)) == [("pyin", f, step) for f in (1280, 2048) for step in (0.1, 0.25)]


def test_the_command_reads_the_training_half_alone(tmp_path, monkeypatch, capsys):
    assert (split()["flute"], split()["cello"]) == ("train", "test")
    recordings = [Recording(name, int16_tone(440, 0.2), root=69) for name in ("cello", "flute")]
    zones = {"cello": [{SAMPLE: 0}], "flute": [{SAMPLE: 1}]}
    presets = {(0, CELLO, "Cello"): [0], (0, FLUTE, "Flute"): [1]}
    path = Font(recordings, zones, presets).write(tmp_path / "a.sf2")
    monkeypatch.setattr(salience_choice, "one_thread", lambda: None)  # the tests' threads stay
    monkeypatch.setattr("sys.argv", ["salience_choice", str(path)])
    assert salience_choice.main() == 0
    text = capsys.readouterr().out
    assert text.startswith("1 notes of the training half\n")
    assert "| as shipped: 1.5, 0.6, 1 | 100.0 |" in text
    assert "YIN, frame 1280, threshold 0.2: clean 100.0" in text
    assert "pYIN" not in text


def test_a_file_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(salience_choice, "one_thread", lambda: None)
    monkeypatch.setattr("sys.argv", ["salience_choice", str(tmp_path / "missing.sf2")])
    assert salience_choice.main() == 2
    assert "missing.sf2" in capsys.readouterr().err
