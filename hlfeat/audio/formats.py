"""Audio formats: extensions, limits, and in which of them libsndfile seeks exactly."""

from __future__ import annotations

import posixpath

# Formats that libsndfile reads, and others that people have: files of the latter are failures and not skipped.
_READABLE = """
    wav wave bwf rf64 flac ogg oga opus mp3 mp2 mp1 aiff aif aifc w64 au snd caf sph nist voc svx iff sf ircam paf pvf
    avr htk sds mat4 mat5 xi
"""
_UNREADABLE = "m4a m4b mp4 aac ac3 wma amr ape wv mka webm 3gp dsf dff tta mpc spx ra"
READABLE, UNREADABLE = frozenset(_READABLE.split()), frozenset(_UNREADABLE.split())
AUDIO = READABLE | UNREADABLE


def extension(path: str) -> str:
    """The extension in lower case, without its dot."""
    return posixpath.splitext(path)[1][1:].lower()


MIN_RATE, MAX_RATE = 1000, 768000
UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's value for a stream that does not state its length

# Formats in which libsndfile seeks to the exact sample; others are read from their start.
EXACT_SEEK = frozenset({"WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF", "NIST"})
