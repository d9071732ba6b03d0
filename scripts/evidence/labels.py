"""Are the notes' frequencies right? Compares them with YIN (de Cheveigné and Kawahara, 2002; librosa's).

    python -m scripts.evidence.labels FluidR3_GM.sf2         # about 10 seconds on one core

It prints a table with a row for each family: instruments and notes of the two halves, and how many notes YIN finds
within 50 cents of their labels; then a line for each note that it finds elsewhere, with the levels of the label's
partials, which tell whose mistake it is. A label is right where its own frequency and the odd multiples are there.

Of Fluid R3's 605 notes, 598 agree, half of them within 2.3 cents; seven of eleven families wholly. The seven others'
labels are right too. Of a harp's, a guitar's and a bassoon's, YIN takes the second partial, which is 18 to 26 dB
stronger than the first. The three timpani's partials, at 1, 1.5 and 2 times the label, repeat only after two of its
periods. And a glockenspiel's second mode is inharmonic, at 6.4 times the first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import librosa
import numpy as np

from hlfeat import HlfeatError
from scripts.evidence.notes import FAMILIES, HALVES, Note, notes, split

TOLERANCE = 50.0  # cents: a quarter tone, as in raw pitch accuracy
LOWEST, HIGHEST = 25.0, 5000.0  # hertz: below a piano's lowest note, above its highest
WINDOW = 0.093  # seconds: two periods of the lowest pitch and more
ONSET, STEADY = 0.05, 2.0  # seconds: what is skipped, for it is noise, and how much is looked at
PARTIALS = (0.5, 1, 1.5, 2, 3, 4)


@dataclass(frozen=True)
class Check:
    """A note, and YIN's distance from its label in cents."""

    note: Note
    cents: float

    @property
    def agrees(self) -> bool:
        return abs(self.cents) <= TOLERANCE


def steady(note: Note) -> np.ndarray:
    """The recording without its onset, if it is longer than onset and window: float32 [T], T >= the window."""
    window = round(WINDOW * note.rate)
    start = min(round(ONSET * note.rate), max(0, len(note.samples) - window))
    x = note.samples[start : start + round(STEADY * note.rate)]
    return np.pad(x, (0, max(0, window - len(x))))


def check(note: Note) -> Check:
    """Compare a label with the median of YIN's pitches."""
    window = round(WINDOW * note.rate)
    pitches = librosa.yin(
        steady(note), fmin=LOWEST, fmax=min(HIGHEST, note.rate / 4), sr=note.rate, frame_length=window,
        hop_length=window // 4, center=False,
    )  # fmt: skip
    return Check(note, float(1200 * np.log2(np.median(pitches) / note.frequency)))


def partials(note: Note) -> list[float]:
    """Levels at `PARTIALS` of the label's frequency, within 40 cents, in dB of the strongest component."""
    x = steady(note)
    size = 1 << 18
    levels = np.abs(np.fft.rfft(x * np.hanning(len(x)), size))
    hertz = np.fft.rfftfreq(size, 1 / note.rate)
    near = [np.abs(1200 * np.log2(hertz[1:] / (k * note.frequency))) < 40 for k in PARTIALS]
    strongest = [levels[1:][n].max(initial=0) / levels.max() for n in near]
    return [float(20 * np.log10(max(s, 1e-6))) for s in strongest]


def table(checks: Sequence[Check]) -> str:
    """Markdown: a row for each family, and one for all."""
    halves = split()
    titles = ["family", "instruments (train + test)", "notes (train + test)", "within 50 cents", "median distance"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]

    def row(title: str, chosen: Sequence[Check]) -> None:
        sides = [[c for c in chosen if halves[c.note.instrument] == half] for half in HALVES]
        instruments = " + ".join(str(len({c.note.instrument for c in side})) for side in sides)
        agreeing = [abs(c.cents) for c in chosen if c.agrees]
        distance = f"{np.median(agreeing):.1f} cents" if agreeing else ""
        lines.append(f"| {title} | {instruments} | {len(sides[0])} + {len(sides[1])} "
                     f"| {len(agreeing)} of {len(chosen)} | {distance} |")  # fmt: skip

    for family in FAMILIES:
        row(family, [c for c in checks if c.note.family == family])
    row("all", checks)
    return "\n".join(lines)


def differing(checks: Iterable[Check]) -> str:
    """A line for each note that YIN finds elsewhere."""
    lines = []
    for c in checks:
        if not c.agrees:
            levels = ", ".join(f"{k:g}: {level:.0f}" for k, level in zip(PARTIALS, partials(c.note), strict=True))
            lines.append(f"{c.note.instrument}, {c.note.name}: {c.note.frequency:.1f} Hz, YIN {c.cents:+.0f} cents; "
                         f"dB at multiples {levels}")  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Exit status: 0 done, 2 the file cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("soundfont", help="a General MIDI SoundFont 2 file")
    try:
        checks = [check(note) for note in notes(parser.parse_args().soundfont)]
    except HlfeatError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(table(checks))
    print(differing(checks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
