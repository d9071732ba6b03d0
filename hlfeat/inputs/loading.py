"""load_audio: a file or a clip to a tensor at one sample rate, for training and for trying things out.

A run does not use it: hlfeat/extraction/clip_loader.py also reads clips that are too long to be held.
"""

from __future__ import annotations

import os
import posixpath
from functools import lru_cache

import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import decode
from hlfeat.audio.resample import Resampler
from hlfeat.errors import ClipError, UsageError
from hlfeat.inputs.urls import clip_at
from hlfeat.remote.fetch import with_copy
from hlfeat.remote.retries import Retries
from hlfeat.remote.urls import name_of
from hlfeat.text import escape_unprintable

_resampler = lru_cache(maxsize=8)(Resampler)  # keeps the tables of the rates that it has met


def load_audio(clip: Clip | str | os.PathLike[str], sample_rate: int, channels: str | int = "mix") -> Tensor:
    """Read a clip whole, as `hlfeat.extract` does: the same samples. May be called from several threads.

    Sample rates are converted by windowed-sinc interpolation, torchaudio's `resample` with its default width (J. O.
    Smith, "Digital Audio Resampling Home Page", ccrma.stanford.edu/~jos/resample).

    Args:
        clip: a path or a URL, or a `Clip`, which may have a start, an end and a channel of its own (see
            `collect_inputs`).
        sample_rate: of the result, in hertz; usually `config.audio.sample_rate`.
        channels: "mix" (the mean of all), "first", "each" (all of them), or the number of one, from 0; usually
            `config.audio.channels`. A clip's own channel overrides it.

    Shape: -> float32 [channels, samples]; one channel unless `channels` is "each". Samples are between -1 and 1, unless
    a file of floats goes beyond.

    Raises:
        ClipError: the clip cannot be used. Its `code` says why (missing, not-audio, truncated, ...); its message is one
            line and begins with the clip.
        UsageError: an impossible `sample_rate` or `channels`.

    >>> import soundfile, torch
    >>> soundfile.write("a.wav", torch.zeros(44100, 2).numpy(), 44100)
    >>> load_audio("a.wav", 16000).shape, load_audio("a.wav", 16000, "each").shape
    (torch.Size([1, 16000]), torch.Size([2, 16000]))
    >>> from hlfeat import Clip
    >>> load_audio(Clip("a", "a.wav", start=0.25, end=0.5), 16000).shape
    torch.Size([1, 4000])
    >>> load_audio("b.wav", 16000)
    Traceback (most recent call last):
    ...
    hlfeat.errors.ClipError: b.wav: missing: No such file or directory
    """
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int) or sample_rate < 1:
        raise UsageError(f"sample_rate: expected a whole number of hertz from 1, got {sample_rate!r}")
    if isinstance(channels, bool) or not (channels in ("mix", "first", "each") or _is_number(channels)):
        raise UsageError(f"channels: expected mix, first, each or a number from 0, got {channels!r}")
    if not isinstance(clip, Clip):
        path = os.fspath(clip)
        clip = clip_at(posixpath.basename(name_of(path)), path)
    try:
        wave = decode(with_copy(clip, Retries()), channels)
    except ClipError as e:
        raise ClipError(e.code, f"{clip}: {e.code}: {escape_unprintable(str(e))}") from e
    return _resampler(sample_rate)(torch.from_numpy(wave.samples), wave.sample_rate)


def _is_number(channel: object) -> bool:
    return isinstance(channel, int) and channel >= 0
