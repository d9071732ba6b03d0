"""Notes of a SoundFont: their pitch, which recordings count, and the halves of instruments."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from scripts.evidence.labels import PARTIALS, check, differing, main, partials, table
from scripts.evidence.notes import FAMILIES, HALVES, Note, frequency, notes, split
from scripts.evidence.soundfont import SoundFont, SoundFontError
from tests.evidence.write_soundfont import COARSE, FINE, LEFT, RIGHT, ROOT, SAMPLE, SCALE, Font, Recording, tone

VIOLIN, FLUTE, SYNTH, KALIMBA, FIDDLE = 40, 73, 80, 108, 110  # programs, from 0


def one(recording: Recording, zone: dict[int, int], path) -> list[Note]:
    zones = {"i": [{**zone, SAMPLE: 0}]}
    return list(notes(Font([recording], zones, {(0, VIOLIN, "Violin"): [0]}).write(path / "a.sf2")))


@pytest.mark.parametrize(
    ("root", "correction", "zone", "hertz"),
    [
        (69, 0, {}, 440),
        (69, 0, {ROOT: 57}, 220),
        (60, 0, {COARSE: -9}, 440),  # the trumpets of Fluid R3: transposed down from a root of middle C
        (69, -4, {}, 440 * 2 ** (4 / 1200)),  # the specification's example: 4 cents sharp, so corrected by -4
        (69, 0, {FINE: 30}, 440 * 2 ** (-30 / 1200)),  # recorded 30 cents flat
        (255, 5, {ROOT: 57, COARSE: -12, FINE: -45}, 440 * 2 ** (40 / 1200)),
    ],
)
def test_pitch_is_what_the_root_key_would_correct(tmp_path, root, correction, zone, hertz):
    (note,) = one(Recording("A", tone(hertz), root=root, correction=correction), zone, tmp_path)
    assert note.frequency == pytest.approx(hertz, rel=1e-9)
    assert check(note).cents == pytest.approx(0, abs=5)  # YIN hears it


def test_a_note_is_its_recording(tmp_path):
    wave = tone(440)
    (note,) = one(Recording("Violin A4", wave, root=69), {}, tmp_path)
    assert (note.instrument, note.family, note.name, note.rate) == ("violin", "bowed strings", "Violin A4", 22050)
    assert note.samples.dtype == np.float32
    assert np.array_equal(note.samples * 32768, wave)


@pytest.mark.parametrize(
    ("recording", "zone"),
    [
        (Recording("unpitched", tone(440), root=255), {}),
        (Recording("quarter tones", tone(440), root=69), {SCALE: 50}),
        (Recording("a period", tone(440, 0.14), root=69), {}),
    ],
)
def test_what_is_no_note_is_left_out(tmp_path, recording, zone):
    assert one(recording, zone, tmp_path) == []


def test_each_recording_comes_once(tmp_path):
    recordings = [
        Recording("Violin(L)", tone(440), root=69, link=1, kind=LEFT),
        Recording("Violin(R)", tone(440), root=69, link=0, kind=RIGHT),
        Recording("loud", tone(440), root=69),
        Recording("flute(R)", tone(440), root=69, link=0, kind=RIGHT),
        Recording("square", tone(440), root=69),
    ]
    zones = {
        "violin": [{SAMPLE: 1}, {SAMPLE: 0}, {SAMPLE: 2}, {SAMPLE: 2, ROOT: 70}],
        "flute": [{SAMPLE: 3}, {SAMPLE: 2, ROOT: 57}],
        "square": [{SAMPLE: 4}],
    }
    presets = {
        (0, FLUTE, "Flute"): [1],
        (0, KALIMBA, "Kalimba"): [1],
        (0, SYNTH, "Square Lead"): [2],
        (0, VIOLIN, "Violin"): [0, 0],
        (0, FIDDLE, "Fiddle"): [0],
        (8, VIOLIN, "Slow Violin"): [2],
        (128, 0, "Standard"): [2],
    }
    path = Font(recordings, zones, presets).write(tmp_path / "a.sf2")
    found = list(notes(path))
    assert [(n.instrument, n.name, n.frequency) for n in found] == [
        ("violin", "Violin(L)", 440), ("violin", "loud", 440), ("flute", "flute(R)", 440),
    ]  # fmt: skip
    halves = split()
    for half in HALVES:
        assert [n.name for n in notes(path, half)] == [n.name for n in found if halves[n.instrument] == half]
    with pytest.raises(ValueError, match="expected a half, train or test, got 'valid'"):
        next(notes(path, "valid"))


def test_no_frequency_without_a_key(tmp_path):
    zones = {"i": [{SAMPLE: 0, SCALE: 0}]}
    font = SoundFont.open(Font([Recording("A", tone(440))], zones, {(0, 0, "p"): [0]}).write(tmp_path / "b.sf2"))
    with pytest.raises(ValueError, match="A: expected a root key and 100 cents a key"):
        frequency(font.instruments[0].zones[0])


def test_halves_are_balanced_in_every_family():
    halves = split()
    assert sorted(halves) == sorted(name for programs in FAMILIES.values() for name in programs.values())
    assert len(halves) == sum(map(len, FAMILIES.values()))  # no name twice
    for family, programs in FAMILIES.items():
        counts = Counter(halves[name] for name in programs.values())
        assert abs(counts["train"] - counts["test"]) <= 1, family
    totals = Counter(halves.values())
    assert abs(totals["train"] - totals["test"]) <= 1


def test_the_split_is_pinned():
    """Results of other days are compared with: an instrument that changes sides makes them another experiment."""
    halves = split()
    test = [name for programs in FAMILIES.values() for name in programs.values() if halves[name] == "test"]
    assert test == [
        "Rhodes piano", "FM electric piano", "harpsichord",
        "celesta", "glockenspiel", "vibraphone", "timpani",
        "harmonica",
        "jazz guitar", "clean electric guitar", "muted electric guitar", "distorted guitar",
        "fingered bass", "slapped bass", "popped bass",
        "cello", "string section",
        "dulcimer", "harp", "banjo", "koto",
        "choir, ah",
        "trombone", "tuba", "French horns",
        "alto saxophone", "baritone saxophone", "bassoon", "clarinet",
        "recorder", "shakuhachi", "whistle", "ocarina",
    ]  # fmt: skip


def test_no_program_without_a_pitch():
    programs = [number for family in FAMILIES.values() for number in family]
    assert len(set(programs)) == len(programs)
    assert not set(programs) & {39, 40, 56, 110, *range(81, 105), *range(113, 129)}


def test_labels_that_differ_are_shown_with_their_partials(tmp_path, capsys, monkeypatch):
    recordings = [Recording("right", tone(440), root=69), Recording("octave", tone(440), root=57)]
    zones = {"i": [{SAMPLE: 0}, {SAMPLE: 1}]}
    path = Font(recordings, zones, {(0, VIOLIN, "Violin"): [0]}).write(tmp_path / "a.sf2")
    right, octave = map(check, notes(path))
    assert right.agrees
    assert octave.cents == pytest.approx(1200, abs=5)
    levels = dict(zip(PARTIALS, partials(octave.note), strict=True))
    assert levels[2] == 0
    assert max(levels[k] for k in (0.5, 1, 1.5, 3)) < -40  # neither the label nor its odd multiples are there
    assert differing([right]) == ""
    assert "| bowed strings | 1 + 0 | 2 + 0 | 1 of 2 | " in table([right, octave])
    monkeypatch.setattr("sys.argv", ["labels", str(path)])
    assert main() == 0
    out = capsys.readouterr().out
    assert "violin, octave: 220.0 Hz, YIN +1201 cents; dB at multiples 0.5: " in out


def test_the_check_says_what_it_cannot_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["labels", str(tmp_path / "none.sf2")])
    assert main() == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.sf2'}: No such file or directory\n"
    with pytest.raises(SoundFontError):
        next(notes(tmp_path / "none.sf2"))
