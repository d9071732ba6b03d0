"""read_labels: a table that says of every clip its class, and perhaps its speaker and its part of the data set."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass

from hlfeat.audio.clip import relative_id
from hlfeat.errors import UsageError
from hlfeat.text import escape_unprintable, nearest

SPLITS = ("train", "valid", "test")
_OTHER_NAMES = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}
_SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class ClipLabel:
    """What a table says of a clip.

    Attributes:
        label: the name of its class.
        group: what must not be on both sides of a split, such as the speaker; the clip's own id, if nothing is known.
        split: "train", "valid" or "test"; None: the table does not say.

    >>> ClipLabel("yes", group="speaker 7").split is None
    True
    """

    label: str
    group: str
    split: str | None = None


def read_labels(
    table: str | os.PathLike[str],
    path: str = "path",
    label: str = "label",
    group: str | None = None,
    split: str | None = None,
) -> dict[str, ClipLabel]:
    """Read a table of clips: a header line, then a row for each file.

    Values are separated by commas, semicolons, tabs or bars, whichever makes the columns of the header.

    Args:
        table: a file in UTF-8.
        path: the column of paths, relative to the folder of audio.
        label: the column of classes.
        group: the column of what must not be on both sides of a split; None: `speaker`, if there is such a column.
        split: the column whose values are train, valid (or val, validation, dev) or test, in any case.

    Returns:
        Labels by the ids of clips, which are their paths below the folder, as `hlfeat.collect_inputs([folder])` has
        them, in the order of the rows.

    Raises:
        UsageError: the table cannot be read, has no such column, or a row has no value or an impossible one, with its
            line; two rows have the same path.

    >>> with open("clips.csv", "w") as file:
    ...     _ = file.write("path,label,speaker,split\\nno/1.wav,no,ann,train\\nyes/1.wav,yes,bob,test\\n")
    >>> labels = read_labels("clips.csv", split="split")
    >>> labels["yes/1.wav"]
    ClipLabel(label='yes', group='bob', split='test')
    """
    place = escape_unprintable(os.fspath(table))
    wanted = [name for name in (path, label, group, split) if name is not None]
    result: dict[str, ClipLabel] = {}
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=_separator_of(header, wanted))
            names = [name.strip() for name in next(reader, [])]
            for name in wanted:
                if name not in names:
                    there = f"; there are {', '.join(names[:12])}{nearest(name, names)}" if names else ""
                    raise UsageError(escape_unprintable(f"{place}: no column {name}{there}"))
            columns = _Columns(path, label, group or ("speaker" if "speaker" in names else None), split)
            for values in reader:
                if any(value.strip() for value in values):
                    try:
                        columns.add_row(names, values, result)
                    except ValueError as e:
                        raise UsageError(f"{place}:{reader.line_num}: {escape_unprintable(str(e))}") from e
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"{place}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
    if not result:
        raise UsageError(f"{place}: expected a row for each clip, got none")
    return result


def _separator_of(header: str, wanted: Sequence[str]) -> str:
    """The separator that makes the most of the wanted columns."""

    def columns(separator: str) -> int:
        names = {name.strip().strip('"') for name in header.split(separator)}
        return sum(name in names for name in wanted)

    return max(_SEPARATORS, key=columns)


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that are read."""

    path: str
    label: str
    group: str | None
    split: str | None

    def add_row(self, names: Sequence[str], values: Sequence[str], labels: dict[str, ClipLabel]) -> None:
        """Add what a row says to the labels. Raises ValueError."""
        if len(values) != len(names):
            raise ValueError(f"expected {len(names)} values, got {len(values)}")
        row = dict(zip(names, map(str.strip, values), strict=True))
        for name in (self.path, self.label, self.split):
            if name is not None and not row[name]:
                raise ValueError(f"expected a value in the column {name}, got none")
        id_ = relative_id(row[self.path])
        if id_ in labels:
            raise ValueError(f"a second row for {id_}")
        part = _part_of(row[self.split], self.split) if self.split else None
        labels[id_] = ClipLabel(row[self.label], (self.group and row[self.group]) or id_, part)


def _part_of(value: str, column: str) -> str:
    """A name of SPLITS. Raises ValueError."""
    part = _OTHER_NAMES.get(value.lower(), value.lower())
    if part not in SPLITS:
        raise ValueError(f"{column}: expected train, valid or test, got {value}")
    return part
