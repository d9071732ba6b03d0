"""Tracks of pitch that scripts/train.py learns from: what they say between their rows, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hlfeat
from hlfeat import UsageError
from tests.training.running import table

ROWS = [("time", "frequency"), (0.0, 100), (0.01, 400), (0.02, 0), (0.03, 0), (0.04, 200), (0.30, 220)]


def test_a_track_between_its_rows(tmp_path, train_tracks):
    track = train_tracks.read_track(table(tmp_path / "a.f0.csv", ROWS))
    assert track.step == pytest.approx(0.01)
    times = [0, 0.005, 0.0025, 0.014, 0.016, 0.025, 0.036, 0.04, 0.045, 0.17, 0.305, 0.32]
    pitches = [100, 200, 100 * math.sqrt(2), 400, 0, 0, 200, 200, 200, math.nan, 220, math.nan]
    np.testing.assert_allclose(track.at(np.array(times)), pitches, rtol=1e-9)


def test_a_note_has_one_pitch(train_tracks):
    np.testing.assert_array_equal(train_tracks.Track.of_note(440.0).at(np.array([0, 0.5, 1e4])), 440)


def test_a_track_of_one_row(tmp_path, train_tracks):
    track = train_tracks.read_track(table(tmp_path / "a.f0.csv", [("time", "frequency"), (0, 300)]))
    np.testing.assert_array_equal(track.at(np.array([0, 0.005, 0.02])), [300, 300, math.nan])


def test_further_columns_do_not_count(tmp_path, train_tracks):
    rows = [("confidence", "frequency", " time"), ("high", 220, 0), ("", 221, 0.5), ()]
    track = train_tracks.read_track(table(tmp_path / "a.f0.csv", rows))
    assert (track.times.tolist(), track.freqs.tolist()) == ([0, 0.5], [220, 221])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,hertz\n0,1\n", r"a\.f0\.csv:1: expected the columns time, frequency, got time, hertz"),
        ("time,frequency\n0,100\n0.1\n", r"a\.f0\.csv:3: expected 2 values or more, got 1"),
        ("time,frequency\n0,100\n0.1,high\n", r"a\.f0\.csv:3: frequency: expected a finite number, got high"),
        ("time,frequency\n0,\n", r"a\.f0\.csv:2: frequency: expected a finite number, got nothing"),
        ("time,frequency\nnan,100\n", r"a\.f0\.csv:2: time: expected a finite number, got nan"),
        ("time,frequency\n0,-100\n", r"a\.f0\.csv:2: frequency: expected hertz, 0 for no pitch, got -100"),
        ("time,frequency\n1,100\n1,100\n", r"a\.f0\.csv:3: time: expected more than 1, the time before, got 1"),
        ("time,frequency\n", r"a\.f0\.csv: expected a row for each time, got none"),
        ("time,frequency\n0,\xff\n", r"a\.f0\.csv: cannot be read: .*decode"),
    ],
)
def test_tracks_that_are_refused(tmp_path, train_tracks, text, message):
    (tmp_path / "a.f0.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=message) as caught:
        train_tracks.read_track(tmp_path / "a.f0.csv")
    assert "\n" not in str(caught.value)


def test_where_tracks_are(tmp_path, train_tracks):
    (tmp_path / "s").mkdir()
    for name, hertz in {"s/a.wav.f0.csv": 100, "s/a.f0.csv": 200, "b.f0.csv": 300}.items():
        table(tmp_path / name, [("time", "frequency"), (0, hertz)])
    tracks = train_tracks.find_tracks(tmp_path, ["s/a.wav", "b.flac", "c.wav"])
    assert {id_: track.freqs[0] for id_, track in tracks.items()} == {"s/a.wav": 100, "b.flac": 300}
    with pytest.raises(UsageError, match=r"expected tracks, such as c\.wav\.f0\.csv, got none"):
        train_tracks.find_tracks(tmp_path, ["c.wav"])


@pytest.mark.parametrize(("label", "reason"), [("a4", "a finite number, got a4"), ("0", "hertz above 0, got 0")])
def test_notes_without_a_frequency_are_refused(tmp_path, train_tracks, label, reason):
    labels = hlfeat.read_labels(table(tmp_path / "notes.csv", [("path", "label"), ("a.wav", "440"), ("b.wav", label)]))
    assert train_tracks.notes_of(labels, tmp_path / "notes.csv", "label", ["a.wav"])["a.wav"].freqs == [440]
    with pytest.raises(UsageError, match=rf"notes\.csv: b\.wav: label: expected {reason}$"):
        train_tracks.notes_of(labels, tmp_path / "notes.csv", "label", ["a.wav", "b.wav"])
