"""Names of columns to what they mean: the path, the id, the channel, and where a segment is.

Tools write `Start`, `start_time`, `Begin Time (s)` or `onset_ms`. A name is taken apart into words. One of them says
what the column is, others say the unit or nothing: `Begin Time (s)` is begin, in seconds.

A column that looks like a time and is not understood is refused. If it were skipped, whole files would be used instead
of the segments that were meant.

Raven's selection tables (Cornell Lab of Ornithology) count channels from 1. Their begin and end are times in a sequence
of files, if they have a `File Offset (s)`, which is the time in the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeVar

T = TypeVar("T")

# The first of these that a row has is its path; after them, others like `full_wav_path`.
_PATHS = (
    *("path", "audiofilepath", "audiopath", "file", "filename", "wav"),
    *("audiofile", "audiofilename", "filepath", "audio", "flac", "mp3", "clip", "beginfile", "beginpath"),
)
_OTHER_PATHS = re.compile(
    r"(abs|absolute|full|rel|relative|local)?"
    r"(audio|wav|wave|flac|mp3|ogg|opus|sound|clip|segment|recording|media|speech|voice|video"
    r"|slice|sample|track|song|music|utterance|utt|mix|mixture)?"
    r"(path|file|filepath|filename|fname)"
)

_SECONDS = {"s", "sec", "secs", "second", "seconds"}
_MILLISECONDS = {"ms", "msec", "msecs", "millis", "millisecond", "milliseconds"}
_MEANINGS = {
    **dict.fromkeys(("start", "begin", "onset", "tmin"), "start"),
    **dict.fromkeys(("end", "stop", "tmax"), "end"),
    **dict.fromkeys(("duration", "dur"), "duration"),
    "offset": "offset",
}
_FILLERS = {"time", "timestamp", "t", "segment", "seg", "event", "utterance", "utt"}
_OF_THE_FILE = {"file", "audio", "total", "clip", "recording", "wav", "original"}  # duration of
_TIMES = re.compile(
    r"(start|begin|onset|offset|stop|duration|time).*|.*(start|begin|onset|offset|stop|duration|times?|timestamps?)"
    r"|dur|tmin|tmax|end|ending|end(frame|sample|index|idx|pos|point).*|(frame|sample|segment)s?end"
)
# With one of these a time is that of a clock or a calendar, or (a signature) that of music.
_NO_POSITION = {
    *("date", "datetime", "day", "hour", "month", "year", "clock", "zone", "utc"),
    *("created", "uploaded", "upload", "modified", "updated", "recorded", "signature"),
    *("timezone", "beginner", "startup", "stopword", "stopwords"),
}
_JOINED = re.compile(
    r"(t|time|seg|segment)?(start|begin|onset|stop|end|offset|duration)(time|times|t|s|secs?|seconds?|ms|msec)?"
)
_PAIRS = (("from", "to"), ("t0", "t1"))  # start and end, where a manifest has both
_SEPARATORS = re.compile(r"[,;\t|]")


class TimeColumn(NamedTuple):
    """A column of times: its name, and how many seconds its unit has."""

    name: str
    unit: float = 1.0


@dataclass(frozen=True)
class Columns:
    """The columns of a manifest that are read, by their names there.

    Attributes:
        paths: the first that a row has is used.
        id, channel: None if there is no such column.
        times: by meaning: start, end, offset, duration (all as in NeMo's manifests) or file_offset.
        raven: whether it is a table of Raven's.
    """

    paths: tuple[str, ...] = ()
    id: str | None = None
    channel: str | None = None
    times: dict[str, TimeColumn] = field(default_factory=dict)
    raven: bool = False

    def __contains__(self, name: str) -> bool:
        return name in (*self.paths, self.id, self.channel, *(column.name for column in self.times.values()))

    @cached_property
    def interpreted(self) -> frozenset[str]:
        """The columns that say what a clip is. All others are metadata: other paths too."""
        names = (*self.paths[:1], self.id, self.channel, *(column.name for column in self.times.values()))
        return frozenset(name for name in names if name is not None)


class ColumnError(ValueError):
    """The columns of a manifest are not understood."""


@lru_cache(maxsize=256)
def understand_columns(names: tuple[str, ...]) -> Columns:
    """What the columns with these names mean.

    Raises:
        ColumnError: a column looks like a time and is not understood, or two columns mean the same.

    >>> columns = understand_columns(("File Name", "Begin Time (s)", "end_ms", "label"))
    >>> columns.paths, columns.times["start"], columns.times["end"]
    (('File Name',), TimeColumn(name='Begin Time (s)', unit=1.0), TimeColumn(name='end_ms', unit=0.001))
    >>> understand_columns(("path", "start_frame"))
    Traceback (most recent call last):
    ...
    hlfeat.inputs.columns.ColumnError: the column start_frame looks like a time, but it is not known which; \
expected start, end, offset or duration in seconds: rename or remove it
    """
    joined = {name: "".join(_words(name)) for name in names}
    raven = _is_ravens(names)
    paths = path_columns(names)
    columns = Columns(
        paths=paths,
        id=_only("id", [name for name in names if joined[name] == "id"] or [None]),
        channel=_only("channel", [name for name in names if joined[name] == "channel"] or [None]),
        times={} if _is_of_slices(paths) else _time_columns([name for name in names if name not in paths], raven),
        raven=raven,
    )
    for path in columns.paths[:1]:
        _only("path", [name for name in names if name == path])
    return columns


def _is_ravens(names: Sequence[str]) -> bool:
    """Whether it is a selection table, as Raven writes it, or with names that R or Python have changed."""
    plain = [name.strip().casefold() for name in names]
    changed = "selection" in plain and ["begin", "time", "s"] in map(_words, names)
    return changed or "begin time (s)" in plain


def _is_of_slices(paths: Sequence[str]) -> bool:
    """Whether times are those of slices in longer recordings, of which the files are the slices (UrbanSound8K)."""
    return bool(paths) and _words(paths[0])[:1] == ["slice"]


def path_columns(names: Sequence[str]) -> tuple[str, ...]:
    """The columns that may have the path, in the order in which they are tried."""
    joined = {name: "".join(_words(name)) for name in names if not _SEPARATORS.search(name)}
    known = [name for path in _PATHS for name in joined if joined[name] == path]
    return (*known, *(name for name in joined if name not in known and _OTHER_PATHS.fullmatch(joined[name])))


def _time_columns(names: Sequence[str], raven: bool) -> dict[str, TimeColumn]:
    """The columns of times by their meaning. Raises ColumnError for those that are not understood."""
    by_meaning: dict[str, list[TimeColumn]] = {}
    for name in names:
        words, unit = _without_unit(_words(name))
        meaning = _meaning_of(words)
        if meaning is not None:
            by_meaning.setdefault(meaning, []).append(TimeColumn(name, unit))
    if by_meaning.keys().isdisjoint(("start", "end", "offset")):
        by_meaning.update(_paired(names))
    unknown = by_meaning.pop("unknown", [])
    lengths, of_file = by_meaning.pop("length", []), by_meaning.pop("duration of the file", [])
    onset = any("onset" in _words(column.name) for column in by_meaning.get("start", []))
    if onset and "offset" in by_meaning and "end" not in by_meaning:
        by_meaning["end"] = by_meaning.pop("offset")
    if "file_offset" in by_meaning and "start" not in by_meaning:
        by_meaning.setdefault("offset", []).extend(by_meaning.pop("file_offset"))
    starts = "start" in by_meaning or "offset" in by_meaning
    ends = "end" in by_meaning or "duration" in by_meaning
    if starts and not ends and lengths:
        by_meaning["duration"] = lengths
    elif starts and not ends:
        unknown += of_file
    if unknown and not (raven and ends):  # Raven's other columns are measurements of the selection
        raise ColumnError(
            f"the column {unknown[0].name.strip()} looks like a time, but it is not known which; expected start, end, "
            "offset or duration in seconds: rename or remove it"
        )
    return {meaning: _only(meaning, columns) for meaning, columns in by_meaning.items()}


def _meaning_of(words: Sequence[str]) -> str | None:
    """What a column of times says, or None if its name (without the unit) does not look like a time."""
    if list(words) in (["length"], ["len"]):
        return "length"
    if list(words) == ["file", "offset"]:
        return "file_offset"
    rest = [word for word in words if word not in _FILLERS]
    if len(rest) == 1 and rest[0] in _MEANINGS:
        return _MEANINGS[rest[0]]
    rest = [word for word in words if word not in _OF_THE_FILE]
    if len(rest) == 1 and _MEANINGS.get(rest[0]) == "duration":
        return "duration of the file"
    return "unknown" if any(map(_TIMES.fullmatch, words)) and _NO_POSITION.isdisjoint(words) else None


def _paired(names: Sequence[str]) -> dict[str, list[TimeColumn]]:
    """The columns `from` and `to`, or others that are times only together, as start and end."""
    plain = {name.strip().casefold(): name for name in names}
    for first, last in _PAIRS:
        if first in plain and last in plain:
            return {"start": [TimeColumn(plain[first])], "end": [TimeColumn(plain[last])]}
    return {}


def _words(name: str) -> list[str]:
    """`Begin Time (s)`, `begin_time_s` and `beginTime` as words in lower case."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words: list[str] = []
    for word in re.findall(r"[^\W_]+", spaced.casefold()):
        parts = _JOINED.fullmatch(word)
        words += [part for part in parts.groups() if part] if parts else [word]
    return words


def _without_unit(words: list[str]) -> tuple[list[str], float]:
    """The words before the unit, and how many seconds it has."""
    if words and words[-1] in _SECONDS:
        return words[:-1], 1.0
    if words and words[-1] in _MILLISECONDS:
        return words[:-1], 0.001
    if words and words[-1] == "ss":  # hh:mm:ss
        return [word for word in words if word not in ("hh", "mm", "ss")], 1.0
    return words, 1.0


def _only(meaning: str, columns: Sequence[T]) -> T:
    """The only column of a meaning. Raises ColumnError where there are two."""
    if len(columns) > 1:
        names = " and ".join(str(getattr(column, "name", column)).strip() for column in columns[:2])
        raise ColumnError(f"expected one column for the {meaning}, got {names}")
    return columns[0]
