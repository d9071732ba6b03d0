"""Single notes of real instruments with their frequencies, out of a General MIDI SoundFont, in two halves.

    from scripts.evidence.notes import notes
    for note in notes("FluidR3_GM.sf2", "train"):
        note.instrument, note.frequency, note.samples, note.rate

A note is a recording as it is in the file, from its onset: no loop is repeated, nothing is resampled or cut. Each
recording comes once, of a stereo pair the left half, with the lowest program below that plays it.

Left out, of Fluid R3 and of other sets with the same programs:

- General MIDI's programs 113 to 128 (percussion and sound effects), bank 128 (drum kits) and the other banks, which
  play recordings of bank 0 again;
- synthesisers: basses 39 and 40, strings 51 and 52, voice 55, brass 63 and 64, leads 81 to 88 and pads 89 to 104. Of
  Fluid R3's 58 sounds that they alone play, 27 are shorter than `SHORTEST`: periods of a computed waveform;
- the orchestra hit (56), a chord; the bagpipe (110), whose drones sound beside each note;
- the drawbar, percussive, rock and church organs (17 to 20): ranks an octave below or a fifth above the key sound with
  it. In 44 of Fluid R3's 59 notes, partials at 1/2 or 3/2 of the label are within 15 dB of the strongest, so that the
  label is one of several pitches;
- guitar harmonics (32): the file's root keys are two octaves below what sounds. Nothing at 1, 2 or 3 times their
  frequency is above -35 dB of the strongest partial, which is the 4th or the 8th;
- recordings shorter than `SHORTEST`, which are little more than the period that a player loops: in Fluid R3 the whole
  reed organ (21) and shenai (112), and some of vibraphone, clarinet, tuba and shamisen;
- zones whose keys are not a semitone apart (scaleTuning other than 100): they have no key whose pitch they play.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from scripts.evidence.soundfont import SoundFont, Zone

Half = Literal["train", "test"]
HALVES: tuple[Half, Half] = ("train", "test")

SHORTEST = 0.15  # seconds: windows of 100 ms fit in

# Family -> General MIDI's program, from 1, and what it is. Of a recording that several play, the lowest is the owner.
# Programs that are missing here are left out, as above, or play nothing of their own (bright piano, fiddle, ...).
FAMILIES: dict[str, dict[int, str]] = {
    "keyboards": {
        1: "grand piano",
        3: "electric piano",
        5: "Rhodes piano",
        6: "FM electric piano",
        7: "harpsichord",
        8: "clavinet",
    },
    "tuned percussion": {
        9: "celesta",
        10: "glockenspiel",
        11: "music box",
        12: "vibraphone",
        13: "marimba",
        14: "xylophone",
        15: "tubular bells",
        48: "timpani",
        109: "kalimba",
    },
    "free reeds": {22: "accordion", 23: "harmonica"},
    "guitars": {
        25: "nylon-string guitar",
        26: "steel-string guitar",
        27: "jazz guitar",
        28: "clean electric guitar",
        29: "muted electric guitar",
        30: "overdriven guitar",
        31: "distorted guitar",
    },
    "basses": {
        33: "acoustic bass",
        34: "fingered bass",
        35: "picked bass",
        36: "fretless bass",
        37: "slapped bass",
        38: "popped bass",
    },
    "bowed strings": {41: "violin", 42: "viola", 43: "cello", 44: "double bass", 45: "string section"},
    "plucked strings": {
        16: "dulcimer",
        46: "pizzicato strings",
        47: "harp",
        105: "sitar",
        106: "banjo",
        107: "shamisen",
        108: "koto",
    },
    "voices": {53: "choir, ah", 54: "choir, oh"},
    "brass": {
        57: "trumpet",
        58: "trombone",
        59: "tuba",
        60: "muted trumpet",
        61: "French horns",
        62: "brass section",
    },
    "reeds": {
        65: "soprano saxophone",
        66: "alto saxophone",
        67: "tenor saxophone",
        68: "baritone saxophone",
        69: "oboe",
        70: "English horn",
        71: "bassoon",
        72: "clarinet",
    },
    "flutes": {
        73: "piccolo",
        74: "flute",
        75: "recorder",
        76: "pan flute",
        77: "blown bottle",
        78: "shakuhachi",
        79: "whistle",
        80: "ocarina",
    },
}


@dataclass(frozen=True)
class Note:
    """A recording of one note.

    Attributes:
        instrument, family: of `FAMILIES`.
        name: the recording's in the file; what octave it names is the file's own affair.
        frequency: hertz, of the pitch that the file's author found in it.
        samples: float32 [T], one channel.
        rate: samples a second.
    """

    instrument: str
    family: str
    name: str
    frequency: float
    samples: np.ndarray
    rate: int


def notes(path: str | Path, half: Half | None = None) -> Iterator[Note]:
    """The notes of one half's instruments, or of all, in the order of programs.

    Raises:
        SoundFontError: the file cannot be read.
        ValueError: there is no such half.
    """
    if half not in (None, *HALVES):
        raise ValueError(f"expected a half, train or test, got {half!r}")
    font = SoundFont.open(path)
    halves = split()
    for (family, instrument), zones in _recordings(font).items():
        if half in (None, halves[instrument]):
            for zone in zones:
                sample = zone.sample
                hertz = frequency(zone)
                yield Note(instrument, family, sample.name, hertz, font.waveform(sample), sample.rate)


def frequency(zone: Zone) -> float:
    """Pitch of the recording in hertz, in equal temperament with A4 = 440 Hz: of the key that plays it unchanged.

    A key k plays it shifted by 100 (k - root) + 100 coarse + fine + correction cents, so that it sounds at k's pitch
    (generators 51, 52, 56 and 58 in section 8.1.2; the correction in section 7.10). So its own pitch is the root's less
    the rest. Tunings of presets are left aside: these detune layers against each other, or move them by an octave.

    Raises:
        ValueError: the zone has no root key, or its keys are not a semitone apart.
    """
    if zone.root_key is None or zone.scale_tuning != 100:
        raise ValueError(f"{zone.sample.name}: expected a root key and 100 cents a key, got {zone}")
    semitones = zone.root_key - 69 - zone.coarse_tune - (zone.fine_tune + zone.correction) / 100
    return float(440 * 2 ** (semitones / 12))


def split() -> dict[str, Half]:
    """Instrument -> its half. Every family is divided; the same on every machine and for every file.

    A family's instruments go in turn to one and the other, in the order of a hash of their names, and of families with
    an odd number each second one gives the additional instrument to the test half.
    """
    halves: dict[str, Half] = {}
    odd = 0
    for programs in FAMILIES.values():
        names = sorted(programs.values(), key=lambda name: hashlib.sha256(name.encode()).digest())
        for i, name in enumerate(names):
            halves[name] = HALVES[(i + odd) % 2]
        odd += len(names) % 2
    return halves


def _recordings(font: SoundFont) -> dict[tuple[str, str], list[Zone]]:
    """(family, instrument) -> for each recording that is its own, the first zone that plays it."""
    presets = {preset.program + 1: preset for preset in font.presets if preset.bank == 0}
    listed = sorted((number, family, name) for family, names in FAMILIES.items() for number, name in names.items())
    seen: set[int] = set()
    recordings: dict[tuple[str, str], list[Zone]] = {}
    for number, family, instrument in listed:
        if number not in presets:
            continue
        zones: dict[int, Zone] = {}
        for played in presets[number].instruments:
            for zone in played.zones:
                sample = zone.sample
                right = sample.partner is not None and not sample.left
                pitched = zone.root_key is not None and zone.scale_tuning == 100
                if pitched and not right and sample.index not in seen and sample.seconds >= SHORTEST:
                    zones.setdefault(sample.index, zone)
        seen.update(zones)
        recordings[family, instrument] = list(zones.values())
    return recordings
