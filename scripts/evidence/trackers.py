"""Pitch of single notes: hlfeat's salience, which is not trained, beside published trackers, clean and in white noise.

    python -m scripts.evidence FluidR3_GM.sf2 --only notes [--philharmonia FOLDER]

All get the same samples at 16 kHz and are asked at the same frames (scripts/evidence/clips.py); where a hop is another,
the nearest frame is taken. A frame is right within 50 cents. Shares are averaged over notes. Nothing is fitted to the
data that is scored: the window, the exponents and the weight between harmonics of `pitch-salience` were chosen on the
training half of the soundfont, and so was YIN's threshold (scripts/evidence/salience_choice.py).

Peers: YIN (de Cheveigné and Kawahara, 2002) and pYIN (Mauch and Dixon, 2014) of librosa, swift-f0 (46.9 to 2,093 Hz),
and torchcrepe's tiny model with its Viterbi (Kim et al., "CREPE", 2018; 32.7 to 1,975 Hz). So some notes lie beyond
what the learned ones can say, and a second table has only those that all can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch

import hlfeat
from scripts.evidence.clips import HIGHEST, HOP, LOWEST, RATE, PitchClip, clips, noisy
from scripts.evidence.notes import notes
from scripts.evidence.philharmonia import philharmonia_notes
from scripts.evidence.records import Record, divide
from scripts.evidence.workers import run_jobs

TOLERANCE = 50.0  # cents
NOISES: tuple[float | None, ...] = (None, 20.0, 10.0, 0.0)  # dB of the note over the noise
NOISES_OF = {"fluid": NOISES, "philharmonia": (None, 0.0)}  # there are three times as many notes
FRAME = 2048  # samples of YIN and pYIN: librosa's
TROUGH = 0.2  # YIN's threshold: better on the training half than librosa's 0.1
STEP = 0.1  # semitones of pYIN's states: librosa's; 0.25 is much faster, and as good without noise, but not at 0 dB
LEFT_OUT = {  # (source, method) -> noises: what would take longest
    ("fluid", "pYIN"): (20.0,),
    ("philharmonia", "pYIN"): NOISES,
    ("philharmonia", "crepe tiny"): (0.0,),
}

Track = tuple[np.ndarray, np.ndarray]  # seconds, hertz (0 or NaN: none)


@cache
def extractor(configuration: str) -> hlfeat.Extractor:
    return hlfeat.build(configuration).eval()


def salience(x: np.ndarray, configuration: str, viterbi: bool = False) -> Track:
    model = extractor(configuration)
    with torch.inference_mode():
        y = model(torch.from_numpy(x)[None])[0, 0]
    track = hlfeat.pitch(y, model.frontend.centre_freqs(), viterbi=viterbi)
    return np.arange(y.shape[-1]) * model.hop / RATE, track.frequency.numpy()


def yin(x: np.ndarray, frame: int = FRAME, trough: float = TROUGH) -> Track:
    hertz = librosa.yin(
        x, fmin=LOWEST, fmax=HIGHEST, sr=RATE, frame_length=frame, hop_length=HOP, trough_threshold=trough
    )
    return np.arange(len(hertz)) * HOP / RATE, hertz


def pyin(x: np.ndarray, frame: int = FRAME, step: float = STEP) -> Track:
    """Frames that it calls unvoiced have a pitch too, as for the other methods."""
    hertz, _, _ = librosa.pyin(
        x, fmin=LOWEST, fmax=HIGHEST, sr=RATE, frame_length=frame, hop_length=HOP, fill_na=None, resolution=step
    )
    return np.arange(len(hertz)) * HOP / RATE, hertz


def swift_f0(x: np.ndarray) -> Track:
    result = _swift_f0().detect(x, RATE)
    return np.asarray(result.timestamps), np.asarray(result.pitch_hz)


@cache
def _swift_f0() -> Any:
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1)


def crepe_tiny(x: np.ndarray) -> Track:
    import torchcrepe

    hertz = torchcrepe.predict(torch.from_numpy(x)[None], RATE, HOP, 32.7, 1975.5, "tiny", batch_size=1024)[0].numpy()
    return np.arange(len(hertz)) * HOP / RATE, hertz


OURS: dict[str, Callable[[np.ndarray], Track]] = {
    "pitch-salience": lambda x: salience(x, "pitch-salience"),
    "pitch-salience-fine": lambda x: salience(x, "pitch-salience-fine"),
    "pitch-salience-fine, Viterbi": lambda x: salience(x, "pitch-salience-fine", viterbi=True),
}
PEERS: dict[str, Callable[[np.ndarray], Track]] = {
    "YIN": yin,
    "pYIN": pyin,
    "swift-f0": swift_f0,
    "crepe tiny": crepe_tiny,
}
METHODS = {**OURS, **PEERS}


def right_frames(clip: PitchClip, track: Track) -> tuple[float, float]:
    """The share of scored frames that are right, and the median pitch of all scored frames in hertz (0: none)."""
    times, hertz = track
    wanted = np.flatnonzero(clip.scored) * HOP / RATE
    middles = (times[1:] + times[:-1]) / 2
    found = hertz[np.searchsorted(middles, wanted)]
    sounding = np.isfinite(found) & (found > 0)
    off = np.abs(1200 * np.log2(np.where(sounding, found, 1.0) / clip.frequency))
    median = float(np.median(found[sounding])) if sounding.any() else 0.0
    return float((sounding & (off <= TOLERANCE)).mean()), median


@lru_cache(maxsize=2)
def clips_of(source: str, path: Path) -> list[PitchClip]:
    return list(clips(philharmonia_notes(path) if source == "philharmonia" else notes(path, "test")))


def track_all(job: Mapping[str, Any], paths: Mapping[str, Path]) -> Record:
    """One method on all notes of a source with one level of noise: [frequency, share right, median] of each note."""
    scores: dict[str, list[list[float]]] = {}
    for clip in clips_of(job["source"], paths[job["source"]]):
        share, median = right_frames(clip, METHODS[job["method"]](noisy(clip, job["noise"])))
        scores.setdefault(clip.instrument, []).append([clip.frequency, share, median])
    return {"notes": scores}


def run(
    font: Path, philharmonia: Path | None, *, finished: Sequence[Record] = (), write: Callable[[Record], None]
) -> list[Record]:
    """The records of all methods: those that are finished, and the others, which are written as they come.

    Raises:
        HlfeatError: the soundfont or the folder cannot be read.
    """
    paths = {"fluid": font} | ({} if philharmonia is None else {"philharmonia": philharmonia})
    jobs = [
        {"experiment": "notes", "source": source, "method": method, "noise": noise}
        for source in paths
        for method in METHODS
        for noise in NOISES_OF[source]
        if noise not in LEFT_OUT.get((source, method), ())
    ]
    done, missing = divide(jobs, finished)
    return done + run_jobs(track_all, missing, paths, write=write)
