"""SoundFont 2 files: what is in them, and one line about those that are damaged."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import hlfeat
from scripts.evidence.soundfont import SoundFont, SoundFontError
from tests.evidence.write_soundfont import COARSE, FINE, KEYS, LEFT, MODES, RIGHT, ROOT, SAMPLE, SCALE, Font, Recording

RAMP = np.arange(-300, 300, dtype=np.int16)


def font(**changes) -> Font:
    """Two recordings, an instrument with a global zone, and a preset of it in bank 8."""
    parts = {
        "recordings": [
            Recording("low", RAMP, 44100, 57, -7, loop=(100, 500)),
            Recording("high", RAMP[::-1], 8000, 255, loop=(7, 593)),
        ],
        "instruments": {
            "both": [{FINE: -20, ROOT: 48}, {KEYS: 0 | 59 << 8, SAMPLE: 0}, {MODES: 1, ROOT: 72, FINE: 3, SAMPLE: 1}],
            "plain": [{COARSE: -12, SCALE: 50, SAMPLE: 0}, {SAMPLE: 1}],
        },
        "presets": {(8, 24, "Ukulele"): [0], (0, 5, "Piano"): [1, 0, 1]},
    }
    return Font(**{**parts, **changes})


def test_recordings_are_as_they_were(tmp_path):
    read = SoundFont.open(font().write(tmp_path / "a.sf2"))
    low, high = read.samples
    assert (low.name, low.rate, low.root_key, low.correction, low.loop) == ("low", 44100, 57, -7, (100, 500))
    assert (high.name, high.rate, high.root_key, high.loop) == ("high", 8000, None, (7, 593))
    assert high.seconds == 600 / 8000
    wave = read.waveform(high)
    assert wave.dtype == np.float32
    assert np.array_equal(wave, RAMP[::-1] / np.float32(32768))
    assert np.array_equal(read.waveform(low) * 32768, RAMP)


def test_zones_override_samples_and_the_global_zone(tmp_path):
    both, plain = SoundFont.open(font().write(tmp_path / "a.sf2")).instruments
    first, second = both.zones
    assert (first.sample.name, first.keys, first.root_key, first.fine_tune) == ("low", (0, 59), 48, -20)
    assert (first.correction, first.scale_tuning, first.loops) == (-7, 100, False)
    assert (second.sample.name, second.keys, second.root_key, second.fine_tune) == ("high", (0, 127), 72, 3)
    assert second.loops
    third, fourth = plain.zones  # without a global zone: the other instrument's does not hold
    assert (third.root_key, third.coarse_tune, third.fine_tune, third.scale_tuning) == (57, -12, 0, 50)
    assert (fourth.root_key, fourth.correction) == (None, 0)


def test_presets_name_their_instruments_once(tmp_path):
    ukulele, piano = SoundFont.open(font().write(tmp_path / "a.sf2")).presets
    assert (ukulele.bank, ukulele.program, ukulele.name) == (8, 24, "Ukulele")
    assert [i.name for i in ukulele.instruments] == ["both"]
    assert [i.name for i in piano.instruments] == ["plain", "both"]


def test_an_invalid_root_key_is_middle_c(tmp_path):
    recordings = [Recording("low", RAMP, root=200), Recording("high", RAMP, root=127)]
    read = SoundFont.open(font(recordings=recordings).write(tmp_path / "a.sf2"))
    assert [s.root_key for s in read.samples] == [60, 127]


def test_stereo_pairs_are_found_by_links_or_names(tmp_path):
    recordings = [
        Recording("a(R)", RAMP, link=3, kind=RIGHT),  # 0: by link, though the names say otherwise
        Recording("Horn C4(L)", RAMP, link=0, kind=LEFT),  # 1: the link is not returned, the name leads to 2
        Recording("Horn C4(R)", RAMP, link=0, kind=RIGHT),
        Recording("b", RAMP, link=0, kind=LEFT),
        Recording("Strings G2L", RAMP),  # 4 and 5: mono, they say
        Recording("Strings G2R", RAMP[1:]),
        Recording("Koto(R)", RAMP, link=0, kind=RIGHT),  # 6: alone
        Recording("Flute L", RAMP, 44100),  # 7: of another rate
        Recording("Flute R", RAMP, 32000),
    ]
    read = SoundFont.open(font(recordings=recordings).write(tmp_path / "a.sf2"))
    assert [s.partner for s in read.samples] == [3, 2, 1, 0, 5, 4, None, None, None]
    assert [s.index for s in read.samples if s.left] == [1, 3, 4]


def test_samples_in_a_sound_cards_memory_are_empty(tmp_path):
    data = bytearray(font().bytes())
    header = data.index(b"high\0") + 20
    data[header : header + 26] = struct.pack("<5IBbHH", 5, 100, 0, 0, 0, 60, 0, 0, 0x8001)
    (tmp_path / "a.sf2").write_bytes(data)
    read = SoundFont.open(tmp_path / "a.sf2")
    assert len(read.waveform(read.samples[1])) == 0
    assert read.samples[1].seconds == 0


def refused(path) -> str:
    with pytest.raises(SoundFontError) as caught:
        SoundFont.open(path)
    assert isinstance(caught.value, hlfeat.HlfeatError)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_what_is_no_soundfont_is_refused(tmp_path):
    path = tmp_path / "a.sf2"
    assert refused(path) == "No such file or directory"
    assert refused(tmp_path) == "Is a directory"
    whole = font().bytes()
    for data in (b"", b"RIFF", b"text\n" * 40, whole[:8] + b"WAVE" + whole[12:], b"RIFX" + whole[4:]):
        path.write_bytes(data)
        assert refused(path) == "expected a SoundFont 2 file (RIFF of the form sfbk), found something else"


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole, path = font().bytes(), tmp_path / "a.sf2"
    for length in range(12, len(whole), 7):
        path.write_bytes(whole[:length])
        assert refused(path) == f"truncated: expected {len(whole)} bytes, found {length}"
        # and where the header hides it
        path.write_bytes(whole[:4] + struct.pack("<I", length - 8) + whole[8:length])
        assert "expected" in refused(path)


def test_a_missing_table_is_named(tmp_path):
    for name in ("smpl", "phdr", "pbag", "pgen", "inst", "ibag", "igen", "shdr"):
        path = font(left_out={name}).write(tmp_path / "a.sf2")
        assert refused(path) == f"expected a chunk {name}, found none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"additional": {"igen": b"odd"}}, "chunk igen: expected records of 4 bytes, found 55 bytes"),
        ({"instruments": {"x": [{SAMPLE: 2}]}, "presets": {(0, 0, "p"): [0]}},
         "'x': expected one of 2 samples, found number 2"),
        ({"presets": {(0, 0, "p"): [0, 2]}}, "'p': expected one of 2 instruments, found number 2"),
        ({"recordings": [Recording("still", RAMP, rate=0)] * 2},
         "sample 'still': expected a rate and a place in 1292 samples, found 0 Hz, 0 to 600"),
    ],
)  # fmt: skip
def test_tables_that_contradict_each_other_are_refused(tmp_path, changes, message):
    assert refused(font(**changes).write(tmp_path / "a.sf2")) == message


def damaged(path, chunk: str, offset: int, value: int) -> None:
    """Write the file with two bytes changed in a chunk's data."""
    data = bytearray(font().bytes())
    place = data.index(chunk.encode()) + 8 + offset
    data[place : place + 2] = struct.pack("<H", value)
    path.write_bytes(data)


def test_zones_and_generators_beyond_the_tables_are_refused(tmp_path):
    path = tmp_path / "a.sf2"
    damaged(path, "inst", 20 + 2 * 22, 9)  # where the last instrument ends
    assert refused(path) == "'plain': expected 9 zones, found 5"
    damaged(path, "ibag", 4, 99)
    assert refused(path) == "'both': expected generators 0 to 99 in order, found 13 in all"
    damaged(path, "ibag", 0, 3)
    assert refused(path) == "'both': expected generators 3 to 2 in order, found 13 in all"
