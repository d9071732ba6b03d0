"""Clips of one length, made of any others: short clips are measured without a corpus of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError, UsageError
from hlfeat.extraction.clip_loader import ClipLoader
from hlfeat.extraction.events import FailedClip


def cut(loader: ClipLoader, clips: Iterable[Clip], seconds: float, number: int, most: int, folder: Path) -> list[Clip]:
    """Write clips of so many seconds, as WAV of 16 bits, with the first channel of what the loader keeps.

    Clips are cut where they are longer, without their rest, and repeated where they are shorter. If there are too few,
    they are taken from the beginning again. Those that cannot be read are left out.

    Args:
        number: of clips that are made.
        most: bytes; no more are made when these would have as many bytes in memory.
        folder: where they are written.

    Raises UsageError if no clip can be read.
    """
    made: list[Clip] = []
    size = 0
    while True:
        before = len(made)
        for samples, rate in _read(loader, clips):
            for piece in _pieces(samples, max(1, round(seconds * rate))):
                path = folder / f"{len(made):06d}.wav"
                soundfile.write(path, piece, rate, subtype="PCM_16")
                made.append(Clip(path.name, str(path)))
                size += piece.nbytes
                if len(made) == number or size >= most:
                    return made
        if len(made) == before:
            raise UsageError("expected clips that can be read, found none")


def _pieces(samples: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Shape: samples [T] -> [length] each."""
    if len(samples) < length:
        yield np.resize(samples, length)
    for start in range(0, len(samples) - length + 1, length):
        yield samples[start : start + length]


def _read(loader: ClipLoader, clips: Iterable[Clip]) -> Iterator[tuple[np.ndarray, int]]:
    """The samples of each clip that can be read, and their rate. A long clip comes in pieces."""
    for clip in clips:
        loaded = loader.load(clip, lambda: False, resample=False)
        if isinstance(loaded, FailedClip):
            continue
        rate = loaded.info.sample_rate
        if not loaded.long:
            yield loaded.waveforms[0].numpy(), rate
            continue
        try:
            for chunk in loader.channel_chunks(loaded.info, 0, lambda: False):
                yield chunk[0].numpy(), rate
        except ClipError:
            continue
