"""Manifests: tables, JSON lines of NeMo, lhotse and hlfeat, and Kaldi data folders. Segments included.

| manifest | a clip is | its id |
|---|---|---|
| `.csv`, `.tsv` with a header | a row: path; optional: id, start, end (seconds), channel | id, or the path |
| `.jsonl`, `.jsonl.gz` | an object with the same keys | id, or the path |
| lhotse's recordings or cuts (`.jsonl`, `.jsonl.gz`) | a recording, a cut | id |
| Kaldi's data folder | a line of `segments` if there is one, else of `wav.scp` | its first word |

NeMo's keys are read too: audio_filepath for path, offset for start, and a duration from there instead of end. A
duration alone is that of the file, as NeMo writes it, and makes no segment. Other keys are not read.

A path is taken as written; if there is no such file, as one below the manifest's folder. Without an id, the id of a
segment is its path with `#t=start,end` (W3C Media Fragments). Nothing in a manifest is ever run: Kaldi's pipes are
refused.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hlfeat.audio.clip import Clip, relative_id
from hlfeat.errors import UsageError
from hlfeat.inputs.base import GIVEN, Argument, InputKind
from hlfeat.inputs.rows import clip_of_row, resolve_path, row_error, seconds_of
from hlfeat.text import escape_unprintable

TABLES = (".csv", ".tsv")
LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Errors of the file system as a UsageError that names the manifest."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"{escape_unprintable(path)}: the manifest cannot be read: {reason}") from e


class Table(InputKind):
    """A table with a header line."""

    origins = GIVEN

    def matches(self, argument: Argument) -> bool:
        return argument.path.lower().endswith(TABLES)

    def clips(self, argument: Argument) -> Iterator[Clip]:
        path = argument.path
        delimiter = "\t" if path.lower().endswith(".tsv") else ","
        with _reading(path), open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as f:
            rows = csv.DictReader(f, delimiter=delimiter, strict=True)
            try:
                for row in rows:
                    yield clip_of_row(path, rows.line_num, {k: v for k, v in row.items() if k and v not in (None, "")})
            except csv.Error as e:
                raise UsageError(f"{escape_unprintable(path)}:{rows.line_num}: not a row of a table: {e}") from e


class JsonLines(InputKind):
    """One JSON object a line: NeMo's, lhotse's, or with the columns of a table as keys."""

    origins = GIVEN

    def matches(self, argument: Argument) -> bool:
        return argument.path.lower().endswith(LINES)

    def clips(self, argument: Argument) -> Iterator[Clip]:
        path = argument.path
        opener = gzip.open if path.lower().endswith(".gz") else open
        with _reading(path), opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    yield _json_clip(path, number, line)


def _json_clip(path: str, number: int, line: str) -> Clip:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise row_error(path, number, f"expected one JSON object a line: {e}") from e
    if not isinstance(row, dict):
        raise row_error(path, number, f"expected a JSON object, got {line.strip()[:40]}")
    if "sources" in row:
        return _lhotse_clip(path, number, row.get("id"), row, {})
    if isinstance(row.get("recording"), dict):
        return _lhotse_clip(path, number, row.get("id"), row["recording"], _lhotse_segment(path, number, row))
    if "type" in row and "tracks" in row:
        raise row_error(path, number, "expected recordings or cuts of one recording, got a mixed cut")
    return clip_of_row(path, number, row)


def _lhotse_segment(path: str, number: int, cut: Mapping[str, object]) -> dict[str, object]:
    start, length = seconds_of(path, number, cut, "start"), seconds_of(path, number, cut, "duration")
    if start is None or length is None:
        raise row_error(path, number, "expected a cut with start and duration")
    channel = cut.get("channel")
    if isinstance(channel, list):
        if len(channel) != 1:
            raise row_error(path, number, f"expected a cut of one channel, got {channel}; audio.channels says which")
        channel = channel[0]
    return {"start": start, "end": start + length, "channel": channel}


def _lhotse_clip(
    path: str, number: int, id_: object, recording: Mapping[str, object], segment: Mapping[str, object]
) -> Clip:
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise row_error(path, number, "expected a recording of one source")
    if sources[0].get("type") != "file":
        kind = sources[0].get("type")
        raise row_error(path, number, f"expected a source of type file, got {kind!r}; commands are never run")
    if recording.get("transforms"):
        raise row_error(path, number, "expected a recording without transforms")
    return clip_of_row(path, number, {"path": sources[0].get("source"), "id": id_, **segment})


class KaldiFolder(InputKind):
    """A folder with `wav.scp`, and maybe `segments`.

    A line of wav.scp is `recording path`; one of segments is `utterance recording start end`, where end -1 means the
    end of the file.
    """

    origins = GIVEN

    def matches(self, argument: Argument) -> bool:
        return argument.is_folder and os.path.isfile(os.path.join(argument.path, "wav.scp"))

    def clips(self, argument: Argument) -> Iterator[Clip]:
        with _reading(argument.path):
            yield from _kaldi_clips(argument.path)


def _kaldi_clips(folder: str) -> Iterator[Clip]:
    scp, segments = os.path.join(folder, "wav.scp"), os.path.join(folder, "segments")
    recordings: dict[str, str] = {}
    for number, (name, file) in _fields(scp, 2):
        if file.endswith("|") or file.startswith("|"):
            raise row_error(scp, number, f"expected a file, got a pipe, and commands are never run: {file}")
        if file == "-" or ".ark:" in file:
            raise row_error(scp, number, f"expected a file, got {file}")
        if name in recordings:
            raise row_error(scp, number, f"two recordings with the name {name}: {recordings[name]} and {file}")
        recordings[name] = file
    if not os.path.exists(segments):
        for name, file in recordings.items():
            yield Clip(relative_id(name), resolve_path(file, scp))
        return
    for number, (name, recording, start, end) in _fields(segments, 4):
        if recording not in recordings:
            raise row_error(segments, number, f"expected a recording of wav.scp, got {recording}")
        row = {"path": recordings[recording], "id": name, "start": start}
        yield clip_of_row(segments, number, row if end.strip() == "-1" else {**row, "end": end})


def _fields(path: str, n: int) -> Iterator[tuple[int, list[str]]]:
    """Line number and the `n` fields of each line that is not empty; the last field may contain spaces."""
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="surrogateescape").split("\n"), 1):
        fields = line.strip().split(maxsplit=n - 1)
        if fields:
            if len(fields) != n:
                raise row_error(path, number, f"expected {n} fields, got {len(fields)}")
            yield number, fields
