"""A clip: its name, where it is read from, and what of it."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from hlfeat.text import escape_unprintable


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


def display_path(clip: Clip) -> str:
    """Where a clip is read from, on one line: `a.wav`, `a.tar: b.wav`."""
    return escape_unprintable(clip.path if clip.span is None else f"{clip.path}: {clip.span.member}")


def relative_id(path: str) -> str:
    """The path as written, made one that stays below a folder: the name of a clip."""
    parts = [p for p in posixpath.normpath(path).split("/") if p not in ("", ".", "..")]
    return "/".join(parts)
