"""The pitch in a picture: it lies on the sound's frequency, in one piece where there is sound, and only when wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import hlfeat
from hlfeat.audio.clip import Clip
from hlfeat.config.loading import load_config
from hlfeat.errors import UsageError
from hlfeat.extraction.extract import extract
from hlfeat.extraction.options import Options
from hlfeat.plotting.clip_view import view
from hlfeat.plotting.figures import clip_figure, rows_at
from hlfeat.plotting.pitch_line import is_salience
from hlfeat.plotting.sheets import sheet_figure
from hlfeat.plotting.store_view import stored

RATE = 16000


@pytest.fixture
def melody(tmp_path: Path) -> Path:
    """Half a second each of 220 Hz, silence and 550 Hz, with harmonics."""
    t = np.arange(RATE // 2) / RATE
    notes = [sum(0.2 * np.sin(2 * np.pi * f * h * t) / h for h in range(1, 6)) for f in (220, 550)]
    soundfile.write(tmp_path / "melody.wav", np.concatenate([notes[0], np.zeros_like(t), notes[1]]), RATE)
    return tmp_path / "melody.wav"


def view_of(path: Path, config: str = "pitch-salience", pitch: bool | None = None, **clip: float):
    return view(Clip(path.name, str(path), **clip), load_config(config), config, pitch=pitch)


def drawn_lines(figure):
    """Labels and points of the lines that are drawn over features."""
    return [(line.get_label(), line.get_xydata()) for axes in figure.axes if axes.images for line in axes.lines]


def at(points: np.ndarray, seconds: float) -> float:
    """The second coordinate at the point nearest in time."""
    return float(points[np.nanargmin(np.abs(points[:, 0] - seconds)), 1])


@pytest.mark.parametrize("start", [None, 0.25])
def test_the_line_lies_on_the_notes_and_is_broken_in_silence(melody, start):
    v = view_of(melody, start=start)
    ((label, points),) = drawn_lines(clip_figure([v], "melody"))
    assert label == "pitch, confidence from 0.5"
    freqs = v.stack[0].grid.freqs
    for seconds, hertz in ((0.35, 220), (1.25, 550)):
        assert at(points, seconds) == pytest.approx(rows_at(freqs, np.array([hertz]))[0], abs=0.2)  # of a semitone
    assert np.isnan(at(points, 0.75))


def test_a_leap_breaks_the_line(tmp_path):
    t = np.arange(RATE) / RATE
    x = np.where(t < 0.5, *(sum(np.sin(2 * np.pi * f * h * t) / h for h in range(1, 6)) for f in (220, 660)))
    soundfile.write(tmp_path / "leap.wav", 0.2 * x, RATE)
    line = view_of(tmp_path / "leap.wav").stack[0].pitch
    assert np.nanmax(np.abs(np.diff(np.log2(line.hertz)))) < 0.25
    assert np.nanmax(line.hertz) > 600
    assert np.nanmin(line.hertz) < 250


def test_drawn_for_a_salience_unless_told_otherwise(melody):
    assert is_salience(load_config("pitch-salience"))
    assert is_salience(load_config("pitch-salience-fine"))
    for other in ("log-mel", "eleaf-harmonic", "music-cq-harmonic"):
        assert not is_salience(load_config(other))
    assert drawn_lines(clip_figure([view_of(melody, pitch=False)], "melody")) == []
    assert drawn_lines(clip_figure([view_of(melody, "log-mel")], "melody")) == []
    assert len(drawn_lines(clip_figure([view_of(melody, "log-mel", True)], "melody"))) == 1
    for config, got in (("eleaf-8g-opt", "2 channels"), ("music-cq-harmonic", "4 channels")):
        with pytest.raises(UsageError, match=f"pitch: expected features of one channel .*, got {got}"):
            view_of(melody, config, True)


def test_a_salience_is_not_called_untrained(melody):
    (image,) = view_of(melody).stack
    assert image.title == "stack"


def test_on_a_sheet_of_stored_features(melody, tmp_path):
    out, options = tmp_path / "out", Options(quiet=True)
    extract(load_config("pitch-salience"), [melody], out, options)
    store = hlfeat.FeatureStore(out)
    (image,) = stored(store, ["melody.wav"])
    figure = sheet_figure([image], [("melody", "1.5 s")], "a sheet")
    ((_, points),) = drawn_lines(figure)
    assert at(points, 1.25) == pytest.approx(rows_at(image.grid.freqs, np.array([550]))[0], abs=0.2)
    assert [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().texts] == [
        "pitch, confidence from 0.5"
    ]
    assert stored(store, ["melody.wav"], pitch=False)[0].pitch is None


def test_the_option(invoke, melody, tmp_path):
    for arguments in (["-c", "pitch-salience"], ["-c", "log-mel", "--pitch"], ["-c", "pitch-salience", "--no-pitch"]):
        result = invoke("plot", melody, *arguments, "-o", tmp_path / "p.png")
        assert (result.returncode, result.stderr) == (0, ""), arguments
    result = invoke("plot", melody, "--pitch", "-o", tmp_path / "p.png")
    assert result.returncode == 2
    assert "--pitch: expected features of one channel whose rows have frequencies, got 2 channels" in result.stderr
