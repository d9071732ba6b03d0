"""Audio formats: extensions, limits, and in which of them libsndfile seeks exactly."""

from __future__ import annotations

import importlib.util
import posixpath
from functools import lru_cache

# What libsndfile reads, and what it does not but people have: FFmpeg reads that, where it is installed; without it they
# end up among the failures, not in silence.
_READABLE = """
    wav wave bwf rf64 flac ogg oga opus mp3 mp2 mp1 aiff aif aifc w64 au snd caf sph nist voc svx iff sf ircam paf pvf
    avr htk sds mat4 mat5 xi
"""
_UNREADABLE = """
    m4a m4b m4r mp4 aac ac3 eac3 wma amr awb ape wv mka webm weba 3gp 3ga dsf dff tta mpc spx ra rm shn tak dts qcp oma
"""
# Video, of which PyAV reads the sound. Not ts and mts, which are TypeScript more often than transport streams.
_VIDEO = "mkv mov avi flv f4v m4v m2ts mpg mpeg vob wmv asf ogv 3g2"
READABLE, UNREADABLE, VIDEO = (frozenset(names.split()) for names in (_READABLE, _UNREADABLE, _VIDEO))
AUDIO = READABLE | UNREADABLE


def extension(path: str) -> str:
    """The extension in lower case, without its dot."""
    return posixpath.splitext(path)[1][1:].lower()


def has_audio_name(path: str) -> bool:
    """Whether a file of a folder or archive counts as audio, by its name alone; videos do if PyAV is installed.

    >>> has_audio_name("speech/a.WAV"), has_audio_name("notes.txt"), has_audio_name("speech/._a.WAV")
    (True, False, False)
    """
    kind = extension(path)
    return (kind in AUDIO or (kind in VIDEO and _pyav_is_installed())) and not is_apple_double(path)


def is_apple_double(path: str) -> bool:
    """Whether it is `._a.wav`, which macOS puts beside `a.wav` on other file systems and in archives."""
    return posixpath.basename(path).startswith("._")


@lru_cache(maxsize=1)
def _pyav_is_installed() -> bool:
    return importlib.util.find_spec("av") is not None


MIN_RATE, MAX_RATE = 1000, 768000
UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's value for a stream that does not state its length

# Formats in which libsndfile seeks to the exact sample; others are read from their start.
EXACT_SEEK = frozenset({"RAW", "WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF", "NIST"})
