"""One row of a manifest to one clip: its path, id, segment and channel. A bad row is a clip that fails."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from hlfeat.audio.clip import Clip, relative_id
from hlfeat.errors import UsageError
from hlfeat.inputs.columns import Columns, TimeColumn
from hlfeat.inputs.metadata import MetadataPool
from hlfeat.inputs.root import NO_ROOT, Root
from hlfeat.inputs.urls import clip_at
from hlfeat.remote.urls import is_url, joined, other_scheme, shown_url, without_secrets
from hlfeat.text import escape_unprintable

Row: TypeAlias = Mapping[str, object]
BAD_ROW = "bad-row"  # the code of a clip whose row in a manifest cannot be used

# Hours, minutes, seconds; or minutes, seconds and a fraction. 5:30 may be minutes and seconds, or hours and minutes.
_CLOCK = re.compile(r"(?:(\d+):(\d\d?):(\d\d?(?:[.,]\d*)?)|(\d+):(\d\d?[.,]\d*))")
_DECIMAL_COMMA = re.compile(r"\s*\d+,\d+\s*")


class BadRowError(Exception):
    """A row of a manifest cannot be used.

    Attributes:
        clip_id, file: of the clip that it would have been, as far as they are known.
        alien: whether it is not like a row of a manifest at all. A file of such rows only is no manifest.
    """

    def __init__(self, message: str, clip_id: object = None, alien: bool = False) -> None:
        super().__init__(message)
        self.clip_id: str | None = None
        self.file: str | None = None
        self.alien = alien
        self.name(clip_id)

    def name(self, clip_id: object, file: str | None = None) -> None:
        """Note which clip it is."""
        self.clip_id = relative_id(str(clip_id)) if isinstance(clip_id, str | int) else None
        self.file = file


class _BadRow(NamedTuple):
    line: int
    error: BadRowError


class RowClips:
    """The clips of one manifest, which are added as its rows are read.

    Args:
        path: of the manifest.
        root: what paths in it are relative to.
        url: of a manifest at a URL, with the secrets that the path leaves out.

    Attributes:
        metadata: makes that of its rows.
    """

    def __init__(self, path: str, root: Root = NO_ROOT, url: str | None = None) -> None:
        self.path, self.root, self.url, self.metadata = path, root, url, MetadataPool()
        self._entries: list[Clip | _BadRow] = []
        self._lines: dict[str, int] = {}  # of each id of a clip that is not of a bad row

    def add(self, line: int, make_clip: Callable[..., Clip], *args: object) -> None:
        """Add what the function returns for these arguments; or, if it raises BadRowError, a clip that fails."""
        try:
            clip = make_clip(*args)
            first = self._lines.setdefault(clip.id, line)
            if first != line:
                raise BadRowError(f"expected an id for each clip, but {clip.id} is that of line {first} too")
        except BadRowError as e:
            self.add_bad(line, e)
        else:
            self._entries.append(clip)

    def add_bad(self, line: int, error: BadRowError) -> None:
        """Add a row that cannot be used."""
        self._entries.append(_BadRow(line, error))

    def clips(self, named: bool = True, prefix: str = "") -> Iterator[Clip]:
        """All of them, in order. Those of bad rows have ids that no other clip of the manifest has.

        Args:
            named: whether the ids of bad rows are those in them, where there are some, or all made of lines.
            prefix: of the ids of clips that can be used: the folder that the manifest was found in.

        Raises:
            UsageError: no row looks like one of a manifest.
        """
        bad = [entry for entry in self._entries if isinstance(entry, _BadRow)]
        if bad and len(bad) == len(self._entries) and all(row.error.alien for row in bad):
            raise UsageError(self._message(bad[0]))
        taken = set(self._lines)
        for entry in self._entries:
            if isinstance(entry, Clip):
                inside = prefix and entry.fault is None
                yield replace(entry, id=posixpath.join(prefix, entry.id)) if inside else entry
                continue
            error = entry.error
            id_ = error.clip_id
            if not (named and id_) or id_ in taken:
                id_ = f"{NO_ROOT.id_of(self.path)}:{entry.line}"
                while id_ in taken:
                    id_ += "'"
            taken.add(id_)
            yield Clip(id_, shown_url(error.file or self.path), fault=(BAD_ROW, self._message(entry)))

    def _message(self, row: _BadRow) -> str:
        return f"{escape_unprintable(self.path)}:{row.line}: {escape_unprintable(without_secrets(str(row.error)))}"


def clip_of_row(
    rows: RowClips, row: Row, columns: Columns, meta: Mapping[str, object] | None = None, decimal_comma: bool = False
) -> Clip:
    """One clip from the values of a row.

    Args:
        rows: the manifest that the row is of.
        row: by the names of the columns; numbers may be strings.
        columns: what the names mean.
        meta: what the other columns say.
        decimal_comma: whether 1,5 is a number.

    Raises:
        BadRowError: a value is missing or impossible.
    """
    file = _path_of(row, columns)
    try:
        name = _id_of(row, columns)
    except BadRowError as e:
        e.name(None, file)
        raise
    try:
        start, end = _segment_of(row, columns, decimal_comma)
        channel = _channel_of(row, columns)
    except BadRowError as e:
        e.name(name, file)
        raise
    fault = None
    if end is not None and end <= (start or 0.0):
        fault = "bad-segment", f"expected a segment that ends after its start, got {start or 0:g} to {end:g} s"
    if name is None:
        part = f"#t={start or 0:g},{'' if end is None else f'{end:.10g}'}" if start or end else ""
        name = rows.root.id_of(file) + part
    path = _resolve(row, columns, file, rows)
    return clip_at(name, path, start=start, end=end, channel=channel, fault=fault, meta=meta)


def _path_of(row: Row, columns: Columns) -> str:
    key = next((key for key in columns.paths if row.get(key) is not None), None)
    if key is None:
        keys = ", ".join(map(str, list(row)[:8])) or "nothing"
        raise BadRowError(f"expected a path (or audio_filepath), got {keys}", alien=not columns.paths)
    file = row[key]
    if isinstance(file, dict):  # of a Hugging Face data set: {"path": ..., "bytes": null}
        file = file.get("path")
    if not isinstance(file, str) or not relative_id(file):
        raise BadRowError(f"expected {key} to be a path, got {file!r}")
    if file.rstrip().endswith("|"):
        raise BadRowError(f"expected a file, got a pipe, and commands are never run: {file}")
    return file


def _id_of(row: Row, columns: Columns) -> str | None:
    name = None if columns.id is None else row.get(columns.id)
    if name is None:
        return None
    if not isinstance(name, str | int) or isinstance(name, bool) or not relative_id(str(name)):
        raise BadRowError(f"expected id to be a name, got {name!r}")
    return relative_id(str(name))


def _segment_of(row: Row, columns: Columns, decimal_comma: bool) -> tuple[float | None, float | None]:
    """Start and end in seconds, as the row says them: by start or offset, and by end or duration."""
    times = {m: seconds_of(row, column, decimal_comma) for m, column in columns.times.items()}
    start, end, offset, duration, in_file = map(times.get, ("start", "end", "offset", "duration", "file_offset"))
    if start is not None and offset is not None:
        raise BadRowError(f"expected a start or an offset, got {start:g} and {offset:g}")
    if end is None and duration is not None and (start is not None or offset is not None):
        end = (start or offset or 0.0) + duration
    if start is not None and in_file is not None:
        end = None if end is None else in_file + (end - start)
        start = in_file
    return start if start is not None else (offset or None), end


def _channel_of(row: Row, columns: Columns) -> int | None:
    channel = None if columns.channel is None else row.get(columns.channel)
    if channel is None:
        return None
    first = 1 if columns.raven else 0
    if isinstance(channel, bool) or not str(channel).isdecimal() or int(str(channel)) < first:
        raise BadRowError(f"expected channel to be a number from {first}, got {channel!r}")
    return int(str(channel)) - first


def seconds_of(row: Row, column: TimeColumn, decimal_comma: bool = False) -> float | None:
    """The value of a column in seconds; None if the row does not have it.

    Raises:
        BadRowError: it is no time from 0.
    """
    value = row.get(column.name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        if isinstance(value, str) and column.unit == 1.0 and (clock := _CLOCK.fullmatch(value.strip())):
            hours, minutes, seconds = clock.groups()[:3] if clock[1] else ("0", clock[4], clock[5])
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
        if isinstance(value, str) and decimal_comma and _DECIMAL_COMMA.fullmatch(value):
            value = value.replace(",", ".")
        number = float(value)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError
    except (ValueError, OverflowError):
        unit = "seconds" if column.unit == 1.0 else "milliseconds"
        raise BadRowError(f"expected {column.name.strip()} in {unit}, from 0, got {value!r}") from None
    return number if column.unit == 1.0 else number / 1000


def _resolve(row: Row, columns: Columns, file: str, rows: RowClips) -> str:
    """The path of the file. In Raven's tables, the begin path where the begin file is not beside the table."""
    path = resolve_path(file, rows)
    if columns.raven and not (is_url(path) or os.path.exists(path)):
        others = (row.get(key) for key in columns.paths)
        return next((other for other in others if isinstance(other, str) and os.path.exists(other)), path)
    return path


def resolve_path(file: str, rows: RowClips) -> str:
    """The path below the root; without one as it is written, or below the manifest's folder if it only exists there.

    URLs are as they are written. Relative paths of a manifest at a URL are relative to it.
    """
    if rows.root.folder is not None:
        return rows.root.path_of(file)
    if is_url(file):
        return file
    if rows.url is not None:
        return file if os.path.isabs(file) or other_scheme(file) else joined(rows.url, file)
    if not os.path.isabs(file) and not os.path.exists(file):
        other = os.path.join(os.path.dirname(rows.path), file)
        if os.path.exists(other):
            return other
    return file
