"""Tables with a header line: `.csv`, `.tsv`, and Raven's selection tables, whose names end with `.selections.txt`.

Values are separated by commas, semicolons, tabs or bars, whichever makes a column of paths of the header. Between tabs,
a quote is a character like any other, as in Common Voice's tables: a sentence may have one at its beginning and none
at its end. Only where the names in the header are quoted, as R writes them, values may be too.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock

from hlfeat.audio.clip import Clip
from hlfeat.audio.formats import has_audio_name
from hlfeat.errors import UsageError
from hlfeat.inputs.base import GIVEN, Argument, InputKind
from hlfeat.inputs.columns import ColumnError, Columns, path_columns, understand_columns
from hlfeat.inputs.rows import BadRowError, RowClips, clip_of_row
from hlfeat.inputs.text_files import open_text
from hlfeat.remote.urls import name_of
from hlfeat.text import count, escape_unprintable

TABLES = (".csv", ".tsv", ".selections.txt", ".selection.table.txt")
_SEPARATORS = ",;\t|"
_LONGEST_FIELD = 2**31 - 1  # as much as fits into a C long everywhere


class Table(InputKind):
    """A table with a header line."""

    origins = GIVEN

    def matches(self, argument: Argument) -> bool:
        return argument.name.lower().endswith(TABLES)

    def clips(self, argument: Argument) -> Iterator[Clip]:
        with open_text(argument.path, newline="", content=argument.content()) as file:
            lines = file.readlines()
        rows = RowClips(argument.path, argument.root, argument.url)
        add_rows(rows, lines)
        yield from rows.clips()


def header_of(line: str, path: str) -> tuple[str, ...]:
    """The names of columns in the first line of a table at a path; nothing where its quotes do not match."""
    with suppress(BadRowError):
        return tuple(_dialect_of([line], 0, path, None).row_at([line], 0)[0])
    return ()


@dataclass(frozen=True)
class _Dialect:
    """How a table is written.

    Attributes:
        separator: of values.
        quotes: whether a value may be in quotes.
        padded: whether spaces around values do not count, as in `path, start, end`.
    """

    separator: str
    quotes: bool
    padded: bool

    @classmethod
    def of(cls, header: str, separator: str) -> _Dialect:
        """That of a header line whose names have this separator between them."""
        names = header.rstrip("\r\n").split(separator)
        quoted = all(re.fullmatch(r'\s*".+"\s*', name) for name in names)
        return cls(separator, separator != "\t" or quoted, any(name != name.strip(" ") for name in names))

    def row_at(self, lines: Sequence[str], first: int) -> tuple[list[str], int]:
        """The values of the row that begins in a line, and how many lines it has.

        Raises:
            BadRowError: the quotes in it do not match.
        """
        if not self.quotes or '"' not in lines[first]:
            return self.split(lines[first]), 1
        rest = (lines[i] for i in range(first, len(lines)))
        reader = csv.reader(rest, delimiter=self.separator, skipinitialspace=self.padded, strict=True)
        try:
            with _fields_of_any_size():
                values = next(reader)
        except csv.Error as e:
            raise BadRowError(f"not a row of a table: {e}") from e
        return [value.strip() for value in values] if self.padded else values, reader.line_num

    def split(self, line: str) -> list[str]:
        """The values of a line without quotes."""
        values = line.rstrip("\r\n").split(self.separator)
        return [value.strip() for value in values] if self.padded else values


_limit_of_csv = Lock()


@contextmanager
def _fields_of_any_size() -> Iterator[None]:
    """Python's csv has one limit for all of a process: outside, it is what it was."""
    with _limit_of_csv:
        limit = csv.field_size_limit(_LONGEST_FIELD)
        try:
            yield
        finally:
            csv.field_size_limit(limit)


def add_rows(
    rows: RowClips,
    lines: Sequence[str],
    understand: Callable[[tuple[str, ...]], Columns] = understand_columns,
) -> None:
    """Add the rows of a table. Raises UsageError where its header is not one.

    Args:
        understand: what its columns mean.
    """
    path = rows.path
    not_empty = (i for i, line in enumerate(lines) if line.strip())
    start = next(not_empty, None)
    separator = None
    if start is not None and (excel := re.fullmatch(r"sep=([,;\t|])\s*", lines[start])):  # Excel reads such a line
        start, separator = next(not_empty, None), excel[1]
    if start is None:
        return
    dialect = _dialect_of(lines, start, path, separator)
    try:
        names, used = dialect.row_at(lines, start)
        columns = understand(tuple(names))
        if not columns.paths:
            raise ColumnError(_without_paths(lines[start], names))
    except (ColumnError, BadRowError) as e:
        raise UsageError(f"{escape_unprintable(path)}:{start + 1}: {escape_unprintable(str(e))}") from e
    places = [place for place, name in enumerate(names) if name.strip() and name not in columns.interpreted]
    others = different_names([names[place].strip() for place in places])
    views: dict[tuple[str | None, ...], str] = {}
    i = start + used
    while i < len(lines):
        used = 1
        try:
            values, row, used = _row_at(lines, i, dialect, names, columns)
        except BadRowError as e:
            rows.add_bad(i + 1, e)
        else:
            if row and not _is_other_view(row, columns, views):
                meta = rows.metadata.row(others, _values_at(values, places))
                rows.add(i + 1, clip_of_row, rows, row, columns, meta, dialect.separator == ";")
        i += used


def _dialect_of(lines: Sequence[str], start: int, path: str, separator: str | None) -> _Dialect:
    """How the table is written whose header begins in a line: the separator that makes a column of paths of it."""
    usual = "," if name_of(path).lower().endswith(".csv") else "\t"
    separators = [separator] if separator else sorted(_SEPARATORS, key=lambda other: other != usual)
    dialects = [_Dialect.of(lines[start], separator) for separator in separators]
    for dialect in dialects:
        with suppress(BadRowError):
            if path_columns(dialect.row_at(lines, start)[0]):
                return dialect
    return max(dialects, key=lambda dialect: lines[start].count(dialect.separator))


def _without_paths(line: str, names: Sequence[str]) -> str:
    """What to say of the first line of a table, if no column of paths is among these names."""
    expected = "expected a path (or audio_filepath), got"
    if any(has_audio_name(cell.strip(" \"'\r\n")) for cell in re.split(f"[{_SEPARATORS}]", line)):
        row = line.strip()
        row = row if len(row) <= 60 else row[:57] + "..."
        return (
            f"{expected} {row}: this is a row, and there is no header line above it: add one with the names of the "
            "columns, such as path,label"
        )
    return (
        f"{expected} {', '.join(names[:8])}: call the column of paths path, and separate columns by commas, "
        "semicolons, tabs or bars"
    )


def different_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, of which a second `label` becomes `label_2`, or the next that no column has."""
    taken, different = set(names), dict[str, None]()
    for name in names:
        number, other = 2, name
        while other in different or (other != name and other in taken):
            other, number = f"{name}_{number}", number + 1
        different[other] = None
    return tuple(different)


def _values_at(values: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    """The values of these columns. A row may be shorter than the header."""
    try:
        return tuple([values[place] for place in places])
    except IndexError:
        return tuple([values[place] if place < len(values) else "" for place in places])


def _row_at(
    lines: Sequence[str], first: int, dialect: _Dialect, names: Sequence[str], columns: Columns
) -> tuple[list[str], dict[str, str], int]:
    """The values of a row, those of them that are not empty by their columns, and how many lines it has.

    Raises:
        BadRowError: it has other columns than the table, or a quote takes in the rows below it.
    """
    values, used = dialect.row_at(lines, first)
    if any(_is_row(dialect.split(lines[i]), names, columns) for i in range(first + 1, first + used)):
        raise BadRowError(f"a quote in it is not closed before line {first + used}, and there are rows between")
    row = {name: value for name, value in zip(names, values, strict=False) if value.strip()}
    too_few = any(name in columns for name in names[len(values) :])
    too_many = any(value.strip() for value in values[len(names) :])
    if (row or too_many) and (too_few or too_many):
        raise BadRowError(f"expected {count(len(names), 'value')}, got {len(values)}")
    return values, row, used


def _is_other_view(row: Mapping[str, str], columns: Columns, views: dict[tuple[str | None, ...], str]) -> bool:
    """Whether it is a selection that Raven has written before: once for its waveform, once for its spectrogram.

    Args:
        views: the first view of each selection, which this function adds to.
    """
    if not columns.raven or "Selection" not in row or "View" not in row:
        return False
    read = [*columns.paths, columns.channel, *(column.name for column in columns.times.values())]
    selection = (row["Selection"], *(row.get(name or "") for name in read))
    return views.setdefault(selection, row["View"]) != row["View"]


def _is_row(values: Sequence[str], names: Sequence[str], columns: Columns) -> bool:
    """Whether a line of a value looks like a row of its own: it has an audio file in a column of paths."""
    if len(values) < len(names):
        return False
    return any(has_audio_name(value) for name, value in zip(names, values, strict=False) if name in columns.paths)
