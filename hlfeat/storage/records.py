"""The lines of an index and of failures.jsonl: typed, checked when they are read, written with their keys in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hlfeat.errors import OutputError
from hlfeat.files import json_bytes, json_text

LONGEST = 1e12  # seconds: longer than anything recorded, and sums of them are still numbers
INDEX_KEYS = ("id", "path", "shard", "row", "frames", "duration")  # that an index line must have
FAILURE_KEYS = ("id", "path", "code", "message", "shard")  # all of them text

RequiredValues = tuple[str, str, str, int, int, float]  # of INDEX_KEYS
Record = TypeVar("Record")


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


def index_lines(entries: Iterable[IndexEntry]) -> bytes:
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


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """A clip that could not be used: a line of failures.jsonl.

    Attributes:
        id, path: of the clip.
        code: a stable word for programs, such as "truncated".
        message: for people.
        shard: without suffix, the one that was open when the clip failed.
        member: of the archive at `path`; table_row: of the table.
        other: keys of another version, which are written back as they are.
    """

    id: str
    path: str
    code: str
    message: str
    shard: str
    member: str | None = None
    table_row: int | None = None
    other: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> FailureRecord:
        """Raises ValueError for a line without the keys that it must have."""
        if not all(isinstance(line.get(key), str) for key in FAILURE_KEYS):
            raise ValueError(f"expected {', '.join(FAILURE_KEYS)}")
        known = {*FAILURE_KEYS, "member", "table_row"}
        other = {key: value for key, value in line.items() if key not in known}
        return cls(
            id=line["id"],
            path=line["path"],
            code=line["code"],
            message=line["message"],
            shard=line["shard"],
            member=line.get("member"),
            table_row=line.get("table_row"),
            other=other,
        )

    def as_dict(self) -> dict[str, Any]:
        """The line, its keys in order."""
        place = {"member": self.member, "table_row": self.table_row}
        place = {key: value for key, value in place.items() if value is not None}
        return {**{key: getattr(self, key) for key in FAILURE_KEYS}, **place, **self.other}

    @property
    def within(self) -> str:
        """What the audio is called in the file that holds it; "" for a file of its own, or an archive as a whole."""
        return row_name(self.table_row) if self.table_row is not None else self.member or ""


def read_index(path: Path) -> Iterator[IndexEntry]:
    """The lines of an index.

    Raises OutputError for a file that cannot be read, or a line that is damaged, with its number.
    """
    return (entry for _, entry in _read_lines(path, IndexEntry.from_line, INDEX_KEYS))


def read_whole_index(path: Path) -> Iterator[tuple[IndexEntry, dict[str, Any]]]:
    """As `read_index`, each line also as it is: with the keys that another version has written."""
    return (both for _, both in _read_lines(path, lambda line: (IndexEntry.from_line(line), dict(line)), INDEX_KEYS))


def read_index_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of an index with all keys, those of other versions too. Raises OutputError as `read_index` does."""
    return (line for _, line in _read_lines(path, lambda line: line, INDEX_KEYS))


def read_index_offsets(path: Path) -> Iterator[tuple[int, RequiredValues]]:
    """As `read_index`, the values of INDEX_KEYS alone, with the offset of each line's first byte in the file."""
    return _read_lines(path, _required_values, INDEX_KEYS)


def read_failures(path: Path) -> Iterator[FailureRecord]:
    """The lines of failures.jsonl. Raises OutputError as `read_index` does."""
    return (failure for _, failure in _read_lines(path, FailureRecord.from_line, FAILURE_KEYS))


def salvage_failures(path: Path) -> tuple[list[FailureRecord], int]:
    """The lines of failures.jsonl that can be read, and how many cannot."""
    records, damaged = [], 0
    for line in path.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            data = json.loads(line)
            if not isinstance(data, dict):
                raise ValueError(f"expected {', '.join(FAILURE_KEYS)}")
            records.append(FailureRecord.from_line(data))
        except (ValueError, RecursionError):
            damaged += 1
    return records, damaged


def _read_lines(
    path: Path, parse: Callable[[Mapping[str, Any]], Record], keys: tuple[str, ...]
) -> Iterator[tuple[int, Record]]:
    number = offset = 0
    decode = json.JSONDecoder().raw_decode  # json.loads takes half as long again for a short line
    try:
        with open(path, "rb") as f:
            for data in f:
                number += 1
                text = data.decode()
                line, end = decode(text)
                if not isinstance(line, dict) or text[end:].strip():
                    raise ValueError(f"expected {', '.join(keys)}")
                yield offset, parse(line)
                offset += len(data)
    except OSError as e:
        raise OutputError(f"{path}: cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise OutputError(f"{path}: damaged: line {number}: {e}") from e
