"""A clip: its id, the file that it is read from, and which part of the file it is."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hlfeat.audio.copies import Borrowed, Copy, Stamp
from hlfeat.text import escape_unprintable


@dataclass(frozen=True)
class Span:
    """A member of an archive: the range of the archive's bytes that holds it.

    Attributes:
        member: its name in the archive.
        offset: of its first byte.
        size: in bytes.
        stamp: size (bytes) and modification time (nanoseconds since 1970) of the archive when it was listed.
    """

    member: str
    offset: int
    size: int
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table (Parquet) that holds a clip's audio.

    Attributes:
        table: the id of the table among the inputs: rows without a name of their own are `table#number`.
        number: of the row, from 0.
        column: that the audio is in.
        stamp: size (bytes) and modification time (nanoseconds since 1970; None: not known) of the table when its rows
            were listed.
        name: what the row calls the file that the audio was in; "" where it does not say.
        mean_size: bytes of the audio of a row around it, on average.
    """

    table: str
    number: int
    column: str
    stamp: Stamp
    name: str = ""
    mean_size: int = 0


@dataclass(frozen=True)
class Clip:
    """A recording, or a segment or channel of one, that features are computed of. `collect_inputs` lists clips.

    `str(clip)` says where it is read from, on one line: `a.wav`, or `a.tar: b.wav` for a member of an archive, or
    `a.parquet: row 12`.

    Attributes:
        id: names it in the index of a folder of features.
        path: of the file, archive or table.
        start, end: of a segment, in seconds; None: those of the file.
        channel: from 0; overrides the policy `audio.channels`; None: as the policy says.
        span: where it is in the archive at `path`; None: `path` is the audio file.
        fault: a failure code and a message, if it is known to be unusable before it is read.
        meta: what a manifest says of it besides, such as {"speaker": "ann"}; it goes into the index. It is no part of
            what the clip is: clips that differ in it alone are equal.
        copy: its bytes, if they were brought here from a URL or out of a table: those of the member of an archive
            alone. No part of what the clip is.
        url: what its bytes are fetched from, where that has secrets which `path` leaves out. It is written nowhere.
        listed: size (bytes) and modification time (nanoseconds since 1970; None: not known) of the file at a URL, as
            its folder was listed.
        row: where it is in the table at `path`; None: `path` is no table.

    >>> str(Clip("yes-1", "words/yes.wav", start=0.5, end=1.25))
    'words/yes.wav'
    """

    id: str
    path: str
    start: float | None = None
    end: float | None = None
    channel: int | None = None
    span: Span | None = None
    fault: tuple[str, str] | None = None
    meta: Mapping[str, Any] | None = field(default=None, compare=False)
    copy: Copy | Borrowed | None = field(default=None, compare=False, repr=False)
    url: str | None = field(default=None, compare=False, repr=False)
    listed: Stamp | None = field(default=None, compare=False, repr=False)
    row: TableRow | None = None

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> Clip:
        """A whole file; its id is its name."""
        return cls(posixpath.basename(os.fspath(path)), os.fspath(path))

    def __str__(self) -> str:
        if self.row is not None:
            return escape_unprintable(f"{self.path}: row {self.row.number}")
        return escape_unprintable(self.path if self.span is None else f"{self.path}: {self.span.member}")

    @property
    def name(self) -> str:
        """The name of the audio file, in its folder, in its archive or in its row of a table."""
        if self.row is not None:
            return self.row.name
        return self.path if self.span is None else self.span.member

    @property
    def source(self) -> str:
        """What its bytes are brought from: two URLs may be shown alike. It may have secrets, and is shown nowhere."""
        return self.path if self.url is None else self.url

    @property
    def file(self) -> str:
        """The path of the file on this machine that has its bytes."""
        return self.path if self.copy is None else self.copy.path

    @property
    def range(self) -> Span | None:
        """Where its bytes are in that file; None: they are all of it."""
        return self.span if self.copy is None else None

    @property
    def is_segment(self) -> bool:
        """Whether the clip is a part of its file."""
        return self.start is not None or self.end is not None

    @property
    def segment(self) -> dict[str, str | float | int]:
        """Which part of its file the clip is, with the keys of the index; empty for the whole file."""
        member = None if self.span is None else self.span.member
        row, column = (None, None) if self.row is None else (self.row.number, self.row.column)
        place = {"member": member, "table_row": row, "table_column": column}
        keys = {**place, "start": self.start, "end": self.end, "channel": self.channel}
        return {k: v for k, v in keys.items() if v is not None}


def relative_id(path: str) -> str:
    """A path without leading `/`, `./` and `../`, so that it stays below a folder: the id of a clip.

    >>> relative_id("../speech//a.wav")
    'speech/a.wav'
    """
    parts = [p for p in posixpath.normpath(path).split("/") if p not in ("", ".", "..")]
    return "/".join(parts)
