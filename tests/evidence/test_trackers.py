"""Pitch trackers side by side: which frames count, how strong the noise is, and what the tables say."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from hlfeat.errors import UsageError
from scripts.evidence import tracker_tables, trackers
from scripts.evidence.clips import HOP, RATE, PitchClip, clips, noisy, scored_frames
from scripts.evidence.notes import Note
from scripts.evidence.philharmonia import philharmonia_notes


def tone(seconds: float, frequency: float = 440.0, rate: int = RATE) -> np.ndarray:
    """Five harmonics, as a reed has them."""
    t = np.arange(round(seconds * rate)) / rate
    return sum(0.1 / h * np.sin(2 * np.pi * frequency * h * t) for h in range(1, 6)).astype(np.float32)


def note(samples: np.ndarray, frequency: float = 440.0, rate: int = RATE, name: str = "a") -> Note:
    return Note("oboe", "reeds", name, frequency, samples, rate)


def test_frames_count_where_the_note_sounds():
    loud, soft, gone = tone(1.0), 0.2 * tone(0.5), 0.05 * tone(0.5)  # 0, -14 and -26 dB
    scored = scored_frames(np.concatenate([loud, soft, gone]))
    assert len(scored) == 200
    assert not scored[:5].any()  # the onset
    assert scored[5:147].all()
    assert not scored[153:].any()
    assert not scored_frames(tone(3.0))[156:].any()  # long enough
    assert scored_frames(tone(0.3)).nonzero()[0].max() == 25  # 50 ms before the end
    assert not scored_frames(np.zeros(8000, np.float32)).any()


def test_notes_beyond_the_range_are_left_out_and_rates_are_made_one():
    given = [note(tone(1.0, f, 44100), f, 44100) for f in (20.0, 440.0, 8000.0)]
    (clip,) = clips(given)
    assert clip.frequency == 440.0
    assert abs(len(clip.samples) - RATE) <= 1
    assert len(clip.scored) == -(-len(clip.samples) // HOP)


@pytest.mark.parametrize("snr", [20.0, 10.0, 0.0])
def test_noise_is_as_strong_as_it_is_said_to_be(snr):
    fading = tone(2.0) * np.exp(-3 * np.arange(2 * RATE) / RATE).astype(np.float32)
    (clip,) = clips([note(fading)])
    frames = np.flatnonzero(clip.scored)
    inside = slice(frames[0] * HOP, frames[-1] * HOP)
    noise = noisy(clip, snr) - clip.samples
    power = [np.mean(x[inside].astype(float) ** 2) for x in (clip.samples, noise)]
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(snr, abs=0.3)
    assert np.array_equal(noisy(clip, snr), noisy(clip, snr))
    assert noisy(clip, None) is clip.samples


def test_the_nearest_frame_is_asked():
    clip = PitchClip("oboe", "a", 440.0, np.zeros(1600, np.float32), np.arange(10) >= 5)
    exact = 440.0 * np.ones(10)
    assert trackers.right_frames(clip, (np.arange(10) * 0.01, exact)) == (1.0, 440.0)
    half = np.where(np.arange(10) < 7, 440.0, 880.0)
    assert trackers.right_frames(clip, (np.arange(10) * 0.01, half)) == (0.4, 880.0)
    coarse = np.array([100.0, 440.0]), np.array([0.0, 0.08])  # from 40 ms on the second
    assert trackers.right_frames(clip, coarse[::-1])[0] == 1.0
    assert trackers.right_frames(clip, (np.arange(10) * 0.01, np.zeros(10))) == (0.0, 0.0)
    cents = 440.0 * 2 ** (np.array([0, 0, 0, 0, 0, 49, -49, 51, -51, np.nan]) / 1200)
    assert trackers.right_frames(clip, (np.arange(10) * 0.01, cents))[0] == pytest.approx(0.4)


@pytest.mark.parametrize("method", trackers.METHODS)
def test_every_method_finds_the_pitch_of_a_tone(method):
    (clip,) = clips([note(tone(0.6))])
    share, median = trackers.right_frames(clip, trackers.METHODS[method](clip.samples))
    assert share == 1.0
    assert abs(1200 * np.log2(median / 440)) < 15


def record(method: str, noise: float | None, notes: dict[str, list[list[float]]], source: str = "philharmonia"):
    return {"experiment": "notes", "source": source, "method": method, "noise": noise, "notes": notes}


def test_labels_that_two_peers_contradict():
    def heard(*medians: float) -> dict[str, list[list[float]]]:
        return {"oboe": [[440.0, 1.0, m] for m in medians]}

    records = [
        record("pitch-salience", None, heard(880, 880, 880, 880)),  # not a peer
        record("YIN", None, heard(440, 880, 880, 880)),
        record("pYIN", None, heard(440, 440, 885, 220)),
        record("swift-f0", None, heard(440, 440, 440, 0)),
        record("YIN", 0.0, heard(880, 880, 880, 880)),  # in noise
    ]
    assert tracker_tables.contradicted(records) == {("oboe", 2)}
    text = tracker_tables.tables(records)
    assert "without the 1 notes that two peers contradict: 3 notes of 1 instruments." in text


def test_each_note_counts_once_and_instruments_are_drawn_whole():
    a = record("pitch-salience", None, {"oboe": [[440.0, 1.0, 0.0]] * 9, "harp": [[30.0, 0.0, 0.0]]}, "fluid")
    b = record("YIN", None, {"oboe": [[440.0, 0.5, 0.0]] * 9, "harp": [[30.0, 0.0, 0.0]]}, "fluid")
    assert tracker_tables.accuracy(a).value == pytest.approx(0.9)
    assert (tracker_tables.accuracy(a).low, tracker_tables.accuracy(a).high) == (0.0, 1.0)
    assert tracker_tables.accuracy(a, less=b).value == pytest.approx(0.45)
    assert tracker_tables.over_instruments(a) == 0.5
    text = tracker_tables.tables([a, b])
    assert "9 notes of 1 instruments" in text  # within what all can say
    assert "+45.0" in text


def test_notes_of_a_folder(tmp_path):
    for name in (
        "cello/cello_A2_1_forte_arco-normal", "cello/cello_A2_15_forte_arco-normal",
        "cello/cello_A2_1_piano_arco-normal",
        "cello/cello_As2_05_piano_arco-normal", "cello/cello_A3_1_forte_pizz-normal", "flute/flute_A4_1_forte_normal",
        "flute/flute_C5_phrase_forte_normal",
    ):  # fmt: skip
        path = tmp_path / f"{name}.mp3"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.stack([tone(0.2), tone(0.2)], 1), RATE, format="MP3")
    found = list(philharmonia_notes(tmp_path))
    assert [n.name for n in found] == [
        "cello_A2_1_forte_arco-normal", "cello_As2_05_piano_arco-normal", "flute_A4_1_forte_normal",
    ]  # fmt: skip
    assert [round(n.frequency, 2) for n in found] == [110.0, 116.54, 440.0]
    assert found[0].samples.ndim == 1


def test_a_folder_without_notes_is_refused(tmp_path):
    with pytest.raises(UsageError, match="expected notes such as"):
        list(philharmonia_notes(tmp_path))


def test_a_weighted_bootstrap_draws_weights_with_values():
    from scripts.evidence.intervals import bootstrap

    value, low, high = bootstrap([1.0, 0.0], weights=[9.0, 1.0])
    assert (value, low, high) == (0.9, 0.0, 1.0)
    assert bootstrap([0.3, 0.5], weights=[2.0, 2.0]) == bootstrap([0.3, 0.5])
