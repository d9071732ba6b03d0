"""The lines of failures.jsonl: typed, checked when they are read, written with their keys in order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hlfeat.storage.index_entry import row_name
from hlfeat.storage.records import read_records

FAILURE_KEYS = ("id", "path", "code", "message", "shard")  # all of them text


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


def read_failures(path: Path) -> Iterator[FailureRecord]:
    """The lines of failures.jsonl. Raises OutputError as `read_index` does."""
    return (failure for _, failure in read_records(path, FailureRecord.from_line, FAILURE_KEYS))


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
