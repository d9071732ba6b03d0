"""The beginning of a clip as a small file that browsers play."""

from __future__ import annotations

import io

import numpy as np
import soundfile
import torch

from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import Reader
from hlfeat.audio.resample import Resampler

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # that MP3 has
FORMATS = (("MP3", "audio/mpeg"), ("FLAC", "audio/flac"))  # of which libsndfile may lack the first


def excerpt(clip: Clip, channels: str | int, seconds: float) -> tuple[str, bytes]:
    """The first seconds of a clip: the type of the file, such as audio/mpeg, and its contents.

    Args:
        channels: the channel policy; of several channels that it keeps, the first.

    Raises ClipError where the clip cannot be read.
    """
    blocks, length = [], 0
    with Reader(clip, channels) as reader:
        rate = reader.sample_rate
        for block in reader.blocks():
            blocks.append(block[:1])
            length += block.shape[1]
            if length >= seconds * rate:
                break
    samples = torch.from_numpy(np.concatenate(blocks, axis=1)[:, : round(seconds * rate)])
    lower = [r for r in RATES if r <= rate]
    played = rate if rate in RATES else max(lower, default=RATES[0])
    samples = Resampler(played)(samples, rate)
    name, kind = next(f for f in FORMATS if f[0] in soundfile.available_formats())
    file = io.BytesIO()
    soundfile.write(file, samples[0].clamp(-1, 1).numpy(), played, format=name)
    return kind, file.getvalue()
