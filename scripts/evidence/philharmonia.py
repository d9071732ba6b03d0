"""Single notes of the Philharmonia Orchestra's samples, with the frequencies that their file names say.

The files are `INSTRUMENT/INSTRUMENT_NOTE_LENGTH_DYNAMIC_ARTICULATION.mp3`, as in the collection that the orchestra
gives away. Of each instrument and note one recording is taken: played as usual, about a second long, loud. About one
name in ten is wrong, most of them by octaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import soundfile

from hlfeat.errors import UsageError
from scripts.evidence.notes import Note

NAME = re.compile(r"(.+)_([A-G]s?)(\d)_([^_]+)_([^_]+)_([^_]+)")
KEYS = {"C": 0, "Cs": 1, "D": 2, "Ds": 3, "E": 4, "F": 5, "Fs": 6, "G": 7, "Gs": 8, "A": 9, "As": 10, "B": 11}
WAYS = ("normal", "arco-normal")
LENGTHS = ("1", "15", "long", "05", "very-long")  # "15": a second and a half
DYNAMICS = ("forte", "mezzo-forte", "piano", "fortissimo", "pianissimo")


def philharmonia_notes(folder: Path) -> Iterator[Note]:
    """One note an instrument and key, in the order of names.

    Raises UsageError for a folder without such notes.
    """
    chosen: dict[tuple[str, str], tuple[tuple[int, ...], Path]] = {}
    for path in sorted(folder.rglob("*.mp3")):
        found = NAME.fullmatch(path.stem)
        if found is None:
            continue
        instrument, key, octave, length, dynamic, way = found.groups()
        if way not in WAYS or length not in LENGTHS or dynamic not in DYNAMICS:
            continue
        rank = (LENGTHS.index(length), DYNAMICS.index(dynamic))
        note = instrument, octave + key
        if note not in chosen or rank < chosen[note][0]:
            chosen[note] = rank, path
    if not chosen:
        raise UsageError(f"{folder}: expected notes such as cello/cello_A2_1_forte_arco-normal.mp3, found none")
    for (instrument, key), (_, path) in sorted(chosen.items()):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        semitone = 12 * (int(key[0]) + 1) + KEYS[key[1:]] - 69
        yield Note(instrument, instrument, path.stem, 440 * 2 ** (semitone / 12), samples.mean(1), rate)
