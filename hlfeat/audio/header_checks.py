"""Checks of what a file's header promises against what libsndfile found."""

from __future__ import annotations

import os
import re

import soundfile

from hlfeat.audio.byte_source import open_bytes
from hlfeat.audio.clip import Clip
from hlfeat.audio.formats import MAX_RATE, MIN_RATE
from hlfeat.errors import ClipError

# Lines of libsndfile's log about a chunk of samples that promises more bytes than the file has, such as
# "data : 2147483632 (should be 64000)" (WAV, W64, RF64); SSND is AIFF's, BODY is SVX's, Data Size is AU's.
_PROMISE = re.compile(r"^\s*(?:data|SSND|BODY|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_SHORT = re.compile(r"truncated file|seems to be truncated|frame count \d+ does not match value from 'ds64'")

# Formats where it notes what the header says, and takes what is there without another word (NIST: the header itself).
_HEADER_FRAMES = {
    "AVR": re.compile(r"^\s*Frames\s*: (\d+)", re.MULTILINE),
    "CAF": re.compile(r"Bytes / packet\s*: (\d+)\n\s*Frames / packet\s*: 1\n(?:.*\n)*?data : (\d+)\n"),
    "MAT5": re.compile(r"Cols : (\d+)\n.*\n.*Name : wavedata"),
    "NIST": re.compile(r"sample_count -i (\d+)"),
    "SDS": re.compile(r"^Frames\s*: (\d+)", re.MULTILINE),
}


def check_header(f: soundfile.SoundFile, clip: Clip, channels: str | int) -> None:
    if not MIN_RATE <= f.samplerate <= MAX_RATE:
        raise ClipError("bad-rate", f"expected a sample rate of {MIN_RATE} to {MAX_RATE} Hz, got {f.samplerate}")
    if isinstance(channels, int) and channels >= f.channels:
        raise ClipError("bad-channel", f"expected a channel {channels} (counting from 0), got {f.channels} channels")
    log = f.extra_info
    for promised, there in _PROMISE.findall(log):
        if int(promised) > int(there):
            raise ClipError("truncated", f"the header promises {promised} bytes of audio, {there} are there")
    if _SHORT.search(log):
        raise ClipError("truncated", "the file ends before the length that its header gives")
    if f.format == "OGG" and not _ogg_ends(clip):
        raise ClipError("truncated", "the Ogg stream has no end page")
    promised, there = _frames(f, clip)
    if promised > there:
        raise ClipError("truncated", f"the header promises {promised} samples, {there} are there")
    if f.frames == 0:
        raise ClipError("empty", "no samples")


def _frames(f: soundfile.SoundFile, clip: Clip) -> tuple[int, int]:
    """Samples that the header promises, and that are there, where libsndfile takes one for the other."""
    text, promised, there = f.extra_info, f.frames, f.frames
    if f.format == "NIST":
        with open_bytes(clip) as header:
            text = header.read(1024).decode("ascii", errors="replace")
    found = _HEADER_FRAMES[f.format].search(text) if f.format in _HEADER_FRAMES else None
    if found and f.format == "SDS":  # the other way round: what is noted is there
        there = int(found[1])
    elif found and f.format == "CAF":
        promised = (int(found[2]) - 4) // int(found[1])  # bytes, with those of the edit count, by those of a frame
    elif found:
        promised = int(found[1])
    return promised, there


def _ogg_ends(clip: Clip) -> bool:
    """Whether the last Ogg page is complete and carries the end-of-stream flag (RFC 3533, section 6)."""
    with open_bytes(clip) as f:
        f.seek(0, os.SEEK_END)
        f.seek(max(0, f.tell() - (1 << 20)))
        tail = f.read()
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail) or not tail[at + 5] & 4:
        return False
    sizes = tail[at + 27 : at + 27 + tail[at + 26]]  # of the page's segments
    return len(sizes) == tail[at + 26] and at + 27 + len(sizes) + sum(sizes) <= len(tail)
