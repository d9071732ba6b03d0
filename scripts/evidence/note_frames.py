"""Frames of notes, their labels, and the share of them whose pitch is right.

Frames are centred 50 ms after a note's onset, 90 ms, 130 ms, ... and at least 50 ms before its end, up to 12 of them.
Beyond the recording there are zeros. A note's frames count together as one note, an instrument's notes as one
instrument.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.audio.resample import Resampler
from scripts.evidence.notes import Note
from scripts.evidence.pitch_rows import HOP, RATE, Rows, cents

ONSET, END, MOST = 0.05, 0.05, 12  # seconds, and frames of a note
REACH = 3  # frames on either side of a frame that a filter may see: 120 ms
LEAD = REACH * HOP - round(RATE * ONSET)  # zeros before a note, so that its first frame is the clip's frame `REACH`
LENGTH = (2 * REACH + MOST - 1) * HOP + 1  # samples of a clip
TOLERANCE = 50.0  # cents
FOLDS = 3  # of the training instruments, for choices


@dataclass
class NoteFrames:
    """Frames of some notes.

    Attributes:
        clips: the notes' beginnings, at `RATE`: [notes, LENGTH].
        instruments: of each note.
        note, frame: of each frame, its note and its place in the note's clip: int64 [N].
        hertz: labels, float64 [N].
    """

    clips: Tensor
    instruments: list[str]
    note: Tensor
    frame: Tensor
    hertz: Tensor

    def of_notes(self, chosen: Sequence[int]) -> Tensor:
        """Positions of these notes' frames: int64 [n]."""
        return torch.isin(self.note, torch.tensor(list(chosen))).nonzero()[:, 0]

    def crops(self, positions: Tensor) -> Tensor:
        """What these frames see, each the middle frame, number `REACH`, of a crop: [n, 2 * REACH * HOP + 1]."""
        start = (self.frame[positions] - REACH) * HOP
        return self.clips[self.note[positions, None], start[:, None] + torch.arange(2 * REACH * HOP + 1)]


def note_frames(recordings: Iterable[Note]) -> NoteFrames:
    """Resample notes to `RATE`, and find their frames."""
    resample = Resampler(RATE)
    clips, instruments, numbers, places, hertz = [], [], [], [], []
    for number, note in enumerate(recordings):
        x = resample(torch.from_numpy(note.samples)[None], note.rate)[0]
        clips.append(F.pad(x, (LEAD, LENGTH))[:LENGTH])
        instruments.append(note.instrument)
        count = frames_of(len(x))
        numbers += [number] * count
        places += range(REACH, REACH + count)
        hertz += [note.frequency] * count
    whole = torch.tensor(numbers), torch.tensor(places)
    return NoteFrames(torch.stack(clips), instruments, *whole, torch.tensor(hertz, dtype=torch.float64))


def frames_of(length: int) -> int:
    """Frames of a note of `length` samples at `RATE`: at least one, at most `MOST`.

    >>> frames_of(2400), frames_of(16000)
    (2, 12)
    """
    return min(MOST, 1 + max(0, round(length - RATE * (ONSET + END))) // HOP)


@torch.no_grad()
def levels_of(rows: Rows, of: NoteFrames, positions: Tensor | None = None, batch: int = 16) -> Tensor:
    """Levels of all frames, or those at these positions: -> [F, N]."""
    y = torch.cat([rows.levels(clips) for clips in of.clips.split(batch)])  # [notes, F, frames]
    chosen = slice(None) if positions is None else positions
    return y[of.note[chosen], :, of.frame[chosen]].T.contiguous()


def accuracies(found: Tensor, of: NoteFrames, positions: Tensor) -> dict[str, float]:
    """Raw pitch accuracy of each instrument: frames within 50 cents of a note's, averaged over its notes.

    Shape: found hertz [n], at these positions of the frames.
    """
    right = np.abs(cents(found, of.hertz[positions])) <= TOLERANCE
    numbers = of.note[positions].numpy()
    notes_of: dict[str, list[float]] = {}
    for number in np.unique(numbers):
        notes_of.setdefault(of.instruments[number], []).append(float(right[numbers == number].mean()))
    return {name: float(np.mean(shares)) for name, shares in sorted(notes_of.items())}


def held_out(instruments: Sequence[str], fold: int) -> tuple[list[int], list[int]]:
    """Notes of the training half to learn from, and those of every third instrument, to choose by.

    >>> held_out(["violin", "flute", "oboe", "violin"], 0)
    ([1, 2], [0, 3])
    """
    names = list(dict.fromkeys(instruments))
    out = set(names[fold % FOLDS :: FOLDS])
    return [i for i, n in enumerate(instruments) if n not in out], [i for i, n in enumerate(instruments) if n in out]


def subset(notes: Sequence[int], share: float, seed: int) -> list[int]:
    """That share of the notes, at least one; with the same seed always the same."""
    count = max(1, round(share * len(notes)))
    return sorted(np.random.default_rng(seed).permutation(np.asarray(notes))[:count].tolist())
