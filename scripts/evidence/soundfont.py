"""Reads SoundFont 2 files (.sf2): the recordings in them, and the instruments and presets that play them.

    from scripts.evidence.soundfont import SoundFont
    font = SoundFont.open("FluidR3_GM.sf2")
    font.waveform(font.samples[0])                 # float32 [T], as recorded

The General MIDI set "Fluid R3" (MIT licence, recordings of 2000 to 2008, 148 MB) is in Debian's fluid-soundfont-gm:

    sudo apt-get install fluid-soundfont-gm        # FluidR3_GM.sf2
    apt-get download fluid-soundfont-gm && dpkg -x fluid-soundfont-gm_*.deb fluid      # or without root: below fluid/

Numbers of sections are those of the SoundFont Technical Specification, version 2.04 (E-mu Systems / Creative, 2006).
It reads what tells the pitch of a recording and who plays it. Envelopes, filters, modulators and the extra 8 bits of
24-bit samples (sm24) are left unread; nothing is played or synthesised.

Why this is not a library's work: of those on PyPI, sf2utils (GPL 3; last release in January 2024) imports audioop,
which Python 3.13 removed, and sf2utils13 is a fork until that is repaired; soundfonttools (MIT) is a set of commands
whose modules import each other from the top level; tinysoundfont and pyfluidsynth (MIT, LGPL) are synthesisers, which
hand out no recordings. What is needed here is nine tables of fixed layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hlfeat import HlfeatError
from scripts.evidence.sf2_tables import RECORDS, DamagedError, Record, find_chunks, read_records

RIGHT, LEFT = 2, 4  # sfSampleType, section 7.10: halves of a stereo pair
FROM_ROM = 0x8000
UNPITCHED = 255  # byOriginalPitch of a sound without a pitch
DEFAULT_ROOT = 60  # for 128 ... 254, which are invalid

# Generators, section 8.1.2.
INSTRUMENT, KEY_RANGE, COARSE_TUNE, FINE_TUNE = 41, 43, 51, 52
SAMPLE_ID, SAMPLE_MODES, SCALE_TUNING, OVERRIDING_ROOT_KEY = 53, 54, 56, 58

Amounts = dict[int, int]  # generator -> amount, 16 bits without a sign
Zones = Iterator[tuple[Record, list[Amounts]]]  # of each header, those of its zones


class SoundFontError(HlfeatError):
    """A file that is no SoundFont 2, or a damaged one; the message names it and says what was expected."""


@dataclass(frozen=True)
class Sample:
    """A recording: where it is in the file's pool of samples, and what its header says.

    Attributes:
        index: its place among the file's samples.
        start, end: in the pool, in samples; `end` is the first that does not belong to it.
        loop: start and end of what a player repeats while a key is held, in samples from `start`.
        rate: samples a second.
        root_key: MIDI key whose pitch was recorded (60 is middle C), or None where there is no pitch.
        correction: cents to add to the recording's pitch to arrive at that of its root key.
        partner: index of the other half of a stereo pair, or None.
        left: whether it is the left half of a pair.
    """

    index: int
    name: str
    start: int
    end: int
    loop: tuple[int, int]
    rate: int
    root_key: int | None
    correction: int
    partner: int | None
    left: bool

    @property
    def seconds(self) -> float:
        """Duration of the recording."""
        return (self.end - self.start) / self.rate if self.rate else 0.0


@dataclass(frozen=True)
class Zone:
    """How an instrument plays a sample in a range of keys.

    Attributes:
        keys: the lowest and highest MIDI key.
        root_key: the sample's, or the one that the zone puts in its place; None without a pitch.
        correction: the sample's, in cents.
        coarse_tune, fine_tune: what the zone adds, in semitones and in cents.
        scale_tuning: cents from key to key; 100 is the usual scale, 0 plays one pitch on all keys.
        loops: whether a player repeats the loop.
    """

    sample: Sample
    keys: tuple[int, int]
    root_key: int | None
    correction: int
    coarse_tune: int
    fine_tune: int
    scale_tuning: int
    loops: bool


@dataclass(frozen=True)
class Instrument:
    """A named set of zones."""

    name: str
    zones: tuple[Zone, ...]


@dataclass(frozen=True)
class Preset:
    """What a keyboard selects: one or more instruments, each once. Bank 0 is General MIDI, bank 128 percussion."""

    bank: int
    program: int  # from 0
    name: str
    instruments: tuple[Instrument, ...]


@dataclass(frozen=True)
class SoundFont:
    """A file's samples, instruments and presets, in its order. Its audio is int16 [all samples], left on the disk."""

    path: Path
    samples: tuple[Sample, ...]
    instruments: tuple[Instrument, ...]
    presets: tuple[Preset, ...]
    pool: np.ndarray

    @classmethod
    def open(cls, path: str | Path) -> SoundFont:
        """Read a file's tables; the audio stays on the disk until it is asked for.

        Raises:
            SoundFontError: it is missing, no SoundFont 2, cut short, or its tables contradict each other.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                return _read(path, file)
        except OSError as e:
            raise SoundFontError(f"{path}: {e.strerror or e}") from e
        except DamagedError as e:
            raise SoundFontError(f"{path}: {e}") from None

    def waveform(self, sample: Sample) -> np.ndarray:
        """The recording: float32 [T] in [-1, 1)."""
        return self.pool[sample.start : sample.end].astype(np.float32) / 32768


def _read(path: Path, file: BinaryIO) -> SoundFont:
    chunks = find_chunks(file)
    for name in ("smpl", *RECORDS):
        if name not in chunks:
            raise DamagedError(f"expected a chunk {name}, found none")
    tables = {name: read_records(file, name, *chunks[name]) for name in RECORDS}
    start, size = chunks["smpl"]
    pool = np.memmap(path, "<i2", "r", start, size // 2) if size > 1 else np.zeros(0, np.int16)
    samples = _samples(tables["shdr"], len(pool))
    instruments = tuple(
        Instrument(name, _played(name, zones, samples)) for (name, *_), zones in _zoned(tables, "inst", "ibag", "igen")
    )
    presets = tuple(
        Preset(bank, program, name, _used(name, zones, instruments))
        for (name, program, bank, _), zones in _zoned(tables, "phdr", "pbag", "pgen")
    )
    return SoundFont(path, samples, instruments, presets, pool)


def _samples(headers: list[Record], pool: int) -> tuple[Sample, ...]:
    samples = []
    for index, header in enumerate(headers[:-1]):
        name, start, end, loop_start, loop_end, rate, root, correction, _, kind = header
        rom = kind & FROM_ROM  # in a sound card's memory: addresses mean nothing here
        if not rom and not (start <= end <= pool and rate):
            raise DamagedError(f"sample {name!a}: expected a rate and a place in {pool} samples, "
                                f"found {rate} Hz, {start} to {end}")  # fmt: skip
        if rom:
            start = end = loop_start = loop_end = 0
        # fmt: off
        samples.append(Sample(
            index, name, start, end, (loop_start - start, loop_end - start), rate,
            None if root == UNPITCHED else root if root < 128 else DEFAULT_ROOT,
            correction, None, False,
        ))
        # fmt: on
    return _paired(samples, [header[-2:] for header in headers[:-1]])


def _paired(samples: list[Sample], links: list[tuple[int, int]]) -> tuple[Sample, ...]:
    """The halves of stereo pairs find each other: by their links or else by names such as "Flute C6(L)" and "C4L".

    Editors lose links (in Fluid R3 all lead to the first sample), and types ("Strings G2L" is mono there, and its end
    is not where that of "Strings G2R" is). So a link counts if it is returned, from a left half to a right one, and
    otherwise a name, if the other half has the same rate.
    """
    names = {(s.name, s.rate): s.index for s in samples}
    pairs: dict[int, int] = {}
    for left, (link, kind) in zip(samples, links, strict=True):
        if kind & LEFT and link < len(links) and links[link] == (left.index, kind ^ LEFT ^ RIGHT):
            pairs[left.index] = link
            continue
        mark = re.fullmatch(r"(.*)L(\)?)", left.name)
        right = names.get((f"{mark[1]}R{mark[2]}", left.rate)) if mark else None
        if right is not None:
            pairs[left.index] = right
    partners = {**pairs, **{right: left for left, right in pairs.items()}}
    return tuple(replace(s, partner=partners.get(s.index), left=s.index in pairs) for s in samples)


def _zoned(tables: dict[str, list[Record]], heads: str, bags: str, generators: str) -> Zones:
    """The header of each preset or instrument, and the generators of each of its zones.

    The first zone is global, if it names no sample or instrument: its generators hold where a zone has none
    (sections 7.3, 7.7 and 9.4).
    """
    last = INSTRUMENT if heads == "phdr" else SAMPLE_ID
    for head, following in zip(tables[heads], tables[heads][1:], strict=False):
        zones = []
        common: Amounts = {}
        for number in range(head[-1], following[-1]):
            if number + 1 >= len(tables[bags]):
                raise DamagedError(f"{head[0]!a}: expected {following[-1]} zones, found {len(tables[bags]) - 1}")
            first, end = tables[bags][number][0], tables[bags][number + 1][0]
            if not first <= end <= len(tables[generators]):
                raise DamagedError(f"{head[0]!a}: expected generators {first} to {end} in order, "
                                    f"found {len(tables[generators])} in all")  # fmt: skip
            zone: Amounts = dict(tables[generators][first:end])
            if last in zone:
                zones.append({**common, **zone})
            elif number == head[-1]:
                common = zone
        yield head, zones


def _played(name: str, zones: list[Amounts], samples: tuple[Sample, ...]) -> tuple[Zone, ...]:
    played = []
    for zone in zones:
        if zone[SAMPLE_ID] >= len(samples):
            raise DamagedError(f"{name!a}: expected one of {len(samples)} samples, found number {zone[SAMPLE_ID]}")
        sample = samples[zone[SAMPLE_ID]]
        root = zone.get(OVERRIDING_ROOT_KEY, -1)
        keys = zone.get(KEY_RANGE, 127 << 8)
        # fmt: off
        played.append(Zone(
            sample, (keys & 255, keys >> 8),
            root if 0 <= root < 128 else sample.root_key,
            sample.correction, _signed(zone.get(COARSE_TUNE, 0)), _signed(zone.get(FINE_TUNE, 0)),
            zone.get(SCALE_TUNING, 100), bool(zone.get(SAMPLE_MODES, 0) & 1),
        ))
        # fmt: on
    return tuple(played)


def _used(name: str, zones: list[Amounts], instruments: tuple[Instrument, ...]) -> tuple[Instrument, ...]:
    numbers = dict.fromkeys(zone[INSTRUMENT] for zone in zones)
    if numbers and max(numbers) >= len(instruments):
        raise DamagedError(f"{name!a}: expected one of {len(instruments)} instruments, found number {max(numbers)}")
    return tuple(instruments[number] for number in numbers)


def _signed(amount: int) -> int:
    """A generator's amount as a number with a sign."""
    return amount - 65536 if amount > 32767 else amount
