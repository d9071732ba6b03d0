"""The lines of an index: typed, checked when they are read, written with their keys in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from json.encoder import encode_basestring
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from hlfeat.files import json_bytes, json_text
from hlfeat.storage.records import read_records

LONGEST = 1e12  # seconds: longer than anything recorded, and sums of them are still numbers
INDEX_KEYS = ("id", "path", "shard", "row", "frames", "duration")  # that an index line must have

RequiredValues = tuple[str, str, str, int, int, float]  # of INDEX_KEYS


class IndexEntry(NamedTuple):
    """A clip of a shard: a line of its index.

    The writer of the shard fills in `shard`, `row`, `frames` and `crc32`. A key whose value is None is not written.
    A named tuple, because a frozen dataclass of this many fields takes longer to make than its line to parse.

    Attributes:
        id: of the clip.
        path: of the audio file, or of the archive or the table that it is in.
        shard: name of the file that has the features.
        row, frames: the features are these rows of the shard: `row` to `row + frames`.
        duration: in seconds.
        sample_rate: of the file, in Hz.
        channels: of the file.
        size: of the file, in bytes.
        modified: when the file last changed, in nanoseconds since 1970.
        member: of an archive.
        table_row, table_column: of a table (Parquet) that the audio is in: the number of the row, from 0, and the name
            of the column.
        start, end: of a segment, in seconds.
        channel: of a file whose channels are clips of their own, from 0.
        crc32: of the features' bytes.
        truncated: True of a recording that was cut short, of which the features are of what is there.
        seconds_promised, seconds_there: of such a recording: what the file promises, if it does, and what is there.
        decoder: what has read the file, if it was not libsndfile: "av 18.1".
        meta: what a manifest says of the clip besides.
    """

    id: str
    path: str
    shard: str = ""
    row: int = 0
    frames: int = 0
    duration: float = 0.0
    sample_rate: int | None = None
    channels: int | None = None
    size: int | None = None
    modified: int | None = None
    member: str | None = None
    table_row: int | None = None
    table_column: str | None = None
    start: float | None = None
    end: float | None = None
    channel: int | None = None
    crc32: int | None = None
    truncated: bool | None = None
    seconds_promised: float | None = None
    seconds_there: float | None = None
    decoder: str | None = None
    meta: dict[str, Any] | None = None

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> IndexEntry:
        """Raises ValueError for a line without the keys that it must have; keys of other versions are ignored."""
        get = line.get
        meta = get("meta")
        return tuple.__new__(
            cls,
            (
                *_required_values(line),
                get("sample_rate"),
                get("channels"),
                get("size"),
                get("modified"),
                get("member"),
                get("table_row"),
                get("table_column"),
                get("start"),
                get("end"),
                get("channel"),
                get("crc32"),
                get("truncated"),
                get("seconds_promised"),
                get("seconds_there"),
                get("decoder"),
                meta if isinstance(meta, dict) else None,
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """The line, its keys in order."""
        return {key: value for key, value in zip(self._fields, self, strict=True) if value is not None}

    def placed(self, shard: str, row: int, frames: int, crc32: int) -> IndexEntry:
        """The same clip with its place in a shard. `_replace` takes four times as long."""
        id_, path, _, _, _, *more = self
        more[_CRC32] = crc32
        return tuple.__new__(IndexEntry, (id_, path, shard, row, frames, *more))

    @property
    def segment(self) -> dict[str, str | float | int]:
        """What the clip is of its file; nothing for the whole file."""
        place = {"member": self.member, "table_row": self.table_row, "table_column": self.table_column}
        keys = {**place, "start": self.start, "end": self.end, "channel": self.channel}
        return {key: value for key, value in keys.items() if value is not None}

    @property
    def within(self) -> str:
        """What the audio is called in the file that holds it: its member of an archive, or its row of a table; "" for a
        file of its own."""
        if self.table_row is not None:
            return row_name(self.table_row)
        return self.member or ""


def row_name(number: int) -> str:
    """What a row of a table is called."""
    return f"row {number}"


_CRC32 = IndexEntry._fields.index("crc32") - IndexEntry._fields.index("duration")  # among the fields after `frames`
_KEYS = tuple(json.dumps(key) + ": " for key in IndexEntry._fields)


def _float_text(value: float) -> str:
    return repr(value) if isfinite(value) else json.dumps(value)


# How `json_text` writes a value, by its type. Other types are left to it.
_TEXT_OF: dict[type, Callable[[Any], str]] = {
    str: encode_basestring,
    int: int.__repr__,
    float: _float_text,
    bool: lambda value: "true" if value else "false",
}


def index_bytes(entries: Iterable[IndexEntry]) -> bytes:
    """The lines of an index: the same bytes as `json_lines` of the entries' dictionaries, in a quarter of the time."""
    text_of = _TEXT_OF.get
    lines = []
    for entry in entries:
        fields = [
            key + text_of(type(value), json_text)(value)
            for key, value in zip(_KEYS, entry, strict=True)
            if value is not None
        ]
        lines.append(f"{{{', '.join(fields)}}}\n")
    return json_bytes("".join(lines))


def _required_values(line: Mapping[str, Any]) -> RequiredValues:
    """The values of INDEX_KEYS. Raises ValueError where one is missing or of another type."""
    id_, path, shard, row, frames, duration = map(line.get, INDEX_KEYS)
    if not (
        isinstance(id_, str)
        and isinstance(path, str)
        and isinstance(shard, str)
        and isinstance(row, int)
        and isinstance(frames, int)
        and isinstance(duration, float)
    ):
        raise ValueError(f"expected {', '.join(INDEX_KEYS)}")
    if not 0 <= duration <= LONGEST:
        raise ValueError(f"expected a duration in seconds, got {duration}")
    return id_, path, shard, row, frames, duration


def read_index(path: Path) -> Iterator[IndexEntry]:
    """The lines of an index.

    Raises OutputError for a file that cannot be read, or a line that is damaged, with its number.
    """
    return (entry for _, entry in read_records(path, IndexEntry.from_line, INDEX_KEYS))


def read_whole_index(path: Path) -> Iterator[tuple[IndexEntry, dict[str, Any]]]:
    """As `read_index`, each line also as it is: with the keys that another version has written."""
    return (both for _, both in read_records(path, lambda line: (IndexEntry.from_line(line), dict(line)), INDEX_KEYS))


def read_index_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of an index with all keys, those of other versions too. Raises OutputError as `read_index` does."""
    return (line for _, line in read_records(path, lambda line: line, INDEX_KEYS))


def read_index_offsets(path: Path) -> Iterator[tuple[int, RequiredValues]]:
    """As `read_index`, the values of INDEX_KEYS alone, with the offset of each line's first byte in the file."""
    return read_records(path, _required_values, INDEX_KEYS)
