"""A clip: its name, where it is read from, and what of it."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

# What libsndfile reads, and what it does not but people have: the latter end up among the failures, not in silence.
_READABLE = """
    wav wave bwf rf64 flac ogg oga opus mp3 mp2 mp1 aiff aif aifc w64 au snd caf sph nist voc svx iff sf ircam paf pvf
    avr htk sds mat4 mat5 xi
"""
_UNREADABLE = "m4a m4b mp4 aac ac3 wma amr ape wv mka webm 3gp dsf dff tta mpc spx ra"
READABLE, UNREADABLE = frozenset(_READABLE.split()), frozenset(_UNREADABLE.split())
AUDIO = READABLE | UNREADABLE


@dataclass(frozen=True)
class Span:
    """A member of an archive: its name and where its bytes are. `stamp`: the archive's size and time when listed."""

    member: str
    offset: int
    size: int
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Clip:
    """One input: `id` names it in the output, `path` is where to read it.

    A segment has a start and an end in seconds (None: those of the file). A channel, from 0, goes before the policy.
    A member of an archive has a span of the file at `path`. A fault, a code and a message, is what is known to be wrong
    before it is read.
    """

    id: str
    path: str
    start: float | None = None
    end: float | None = None
    channel: int | None = None
    span: Span | None = None
    fault: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """What the audio file is called, in its folder or in its archive."""
        return self.path if self.span is None else self.span.member

    @property
    def segment(self) -> dict[str, str | float | int]:
        """What the clip is of its file, as its index line says it; nothing for the whole file."""
        member = None if self.span is None else self.span.member
        keys = {"member": member, "start": self.start, "end": self.end, "channel": self.channel}
        return {k: v for k, v in keys.items() if v is not None}


def extension(path: str) -> str:
    """The extension in lower case, without its dot."""
    return posixpath.splitext(path)[1][1:].lower()


def printable(text: str) -> str:
    """The text on one line, whatever bytes a file name holds."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def place(clip: Clip) -> str:
    """Where a clip is read from, on one line: `a.wav`, `a.tar: b.wav`."""
    return printable(clip.path if clip.span is None else f"{clip.path}: {clip.span.member}")


def below(path: str) -> str:
    """The path as written, made one that stays below a folder: the name of a clip."""
    parts = [p for p in posixpath.normpath(path).split("/") if p not in ("", ".", "..")]
    return "/".join(parts)
