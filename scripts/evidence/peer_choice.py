"""The constants of YIN and pYIN, on the training half: a line for each setting. Part of salience_choice.py's output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from scripts.evidence.clips import PitchClip, noisy
from scripts.evidence.trackers import NOISES, Track, pyin, right_frames, yin

Noises = Sequence[float | None]

FRAMES = (1280, 2048)  # samples: librosa's is 2,048
TROUGHS = (0.1, 0.2, 0.3)  # YIN's threshold: librosa's is 0.1
STEPS = (0.1, 0.25)  # semitones of pYIN's states: librosa's is 0.1
PYIN_NOTES = 4  # every fourth, as it takes a second for a note
PYIN_NOISES: Noises = (None, 0.0)


def accuracy(clips: Sequence[PitchClip], noise: float | None, track: Callable[[np.ndarray], Track]) -> float:
    """Raw pitch accuracy of a tracker: the share of a note's frames that are right, averaged over notes."""
    return float(np.mean([right_frames(clip, track(noisy(clip, noise)))[0] for clip in clips]))


def yin_lines(clips: Sequence[PitchClip]) -> Iterator[str]:
    """Each frame with each threshold."""
    for frame in FRAMES:
        for trough in TROUGHS:
            shares = accuracies(clips, NOISES, partial(yin, frame=frame, trough=trough))
            yield f"YIN, frame {frame}, threshold {trough:g}: {shares}"


def pyin_lines(clips: Sequence[PitchClip]) -> Iterator[str]:
    """Each frame with each step, on every fourth note, and the processor's seconds for a note."""
    some = clips[::PYIN_NOTES]
    for frame in FRAMES:
        for step in STEPS:
            start = time.process_time()
            shares = accuracies(some, PYIN_NOISES, partial(pyin, frame=frame, step=step))
            seconds = (time.process_time() - start) / (len(some) * len(PYIN_NOISES))
            yield f"pYIN of {len(some)} notes, frame {frame}, states of {step:g}: {shares}; {seconds:.2f} s a note"


def accuracies(clips: Sequence[PitchClip], noises: Noises, track: Callable[[np.ndarray], Track]) -> str:
    """Percents, each with the noise."""
    shares = [("clean" if noise is None else f"{noise:g} dB", accuracy(clips, noise, track)) for noise in noises]
    return ", ".join(f"{name} {100 * share:.1f}" for name, share in shares)
