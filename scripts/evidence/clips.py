"""Notes as all methods get them: at one rate, with the frames that are scored, and white noise where it is asked for.

    for clip in clips(notes("FluidR3_GM.sf2", "test")):
        noisy(clip, 10.0), clip.frequency, clip.times[clip.scored]

A frame is scored where the note sounds: from `ONSET` after its beginning, for at most `STEADY`, until `EDGE` before its
end, and while the recording's level is within `DECAY` of its greatest. So nobody is asked for the pitch of a
string that has died away, and noise at 0 dB is as strong as the note in the frames that are scored, on average.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torchaudio.functional import resample

from scripts.evidence.notes import Note

RATE = 16_000  # hertz: what swift-f0 and crepe take, and speech is recorded at
HOP = 160  # samples from frame to frame; frame n is centred on sample n * HOP
LOWEST, HIGHEST = 27.5, 7040.0  # hertz: labels in this range are asked for, by every method in the same way
ONSET, STEADY, EDGE = 0.05, 1.5, 0.05  # seconds
LEVEL_WINDOW = 0.05  # seconds over which the level is measured
DECAY = 20.0  # dB


@dataclass(frozen=True)
class PitchClip:
    """A note at `RATE`.

    Attributes:
        instrument, name: of the note.
        frequency: its label, in hertz.
        samples: float32 [T], from its onset, as much as frames are scored of and a little more.
        scored: bool [N], one a frame: whether the frame counts.
    """

    instrument: str
    name: str
    frequency: float
    samples: np.ndarray
    scored: np.ndarray


def clips(notes: Iterable[Note]) -> Iterator[PitchClip]:
    """The notes that lie in the range and have a frame to score, in their order."""
    for note in notes:
        if LOWEST <= note.frequency <= HIGHEST:
            seconds = round((ONSET + STEADY + 4 * EDGE) * note.rate)
            x = torch.from_numpy(np.ascontiguousarray(note.samples[:seconds]))
            samples = resample(x, note.rate, RATE, lowpass_filter_width=64).numpy()
            scored = scored_frames(samples)
            if scored.any():
                yield PitchClip(note.instrument, note.name, note.frequency, samples, scored)


def scored_frames(samples: np.ndarray) -> np.ndarray:
    """Which frames count.

    Shape: [T] -> bool [ceil(T / HOP)].
    """
    centres = np.arange(0, len(samples), HOP)
    half = round(LEVEL_WINDOW / 2 * RATE)
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    ends, starts = np.minimum(centres + half, len(samples)), np.maximum(centres - half, 0)
    power = (energy[ends] - energy[starts]) / (ends - starts)
    seconds = centres / RATE
    last = min(ONSET + STEADY, len(samples) / RATE - EDGE)
    sounds = power >= power.max(initial=0.0) * 10 ** (-DECAY / 10)
    return (seconds >= ONSET) & (seconds <= last) & sounds & (power > 0)


def noisy(clip: PitchClip, snr: float | None) -> np.ndarray:
    """The samples with white noise, `snr` dB below the power of the scored frames; None: as they are.

    The noise is drawn from the note's name, so it is the same for every method and in every run.

    Shape: -> float32 [T].
    """
    if snr is None:
        return clip.samples
    rng = np.random.default_rng(zlib.crc32(f"{clip.instrument}/{clip.name}/{snr:g}".encode()))
    centres = np.flatnonzero(clip.scored) * HOP
    inside = clip.samples[centres[0] : centres[-1] + HOP] if len(centres) else clip.samples
    deviation = np.sqrt(np.mean(inside.astype(np.float64) ** 2) * 10 ** (-snr / 10))
    return (clip.samples + rng.standard_normal(len(clip.samples)) * deviation).astype(np.float32)
