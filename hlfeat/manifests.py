"""Manifests to clips: tables, JSON lines of NeMo, lhotse and hlfeat, and Kaldi data folders. Segments included.

| manifest | a clip is | named by |
|---|---|---|
| `.csv`, `.tsv` with a header | a row: path, and if wanted id, start, end (seconds), channel | id, or the path |
| `.jsonl`, `.jsonl.gz` | an object with the same keys | id, or the path |
| lhotse's recordings or cuts (`.jsonl`, `.jsonl.gz`) | a recording, a cut | id |
| Kaldi's data folder | a line of `segments` if there is one, else of `wav.scp` | its first word |

NeMo's names do too: audio_filepath for path, offset for start, and a duration from there in place of end. A duration
alone is the file's own, as NeMo writes it, and no segment. Other keys are not read.

A path is taken as written; if there is nothing, as one below the manifest's folder. Without an id, a segment's name is
its path with `#t=start,end` (W3C Media Fragments). Nothing in a manifest is ever run: Kaldi's pipes are refused.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from hlfeat.clip import Clip, below, printable
from hlfeat.errors import UsageError

TABLES = (".csv", ".tsv")
LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
PATH_KEYS = ("path", "audio_filepath", "audio_path", "file", "filename", "wav")


def is_manifest(path: str) -> bool:
    """Whether a path is a manifest by its name, or a Kaldi data folder by what is in it."""
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, "wav.scp"))
    return path.lower().endswith(TABLES + LINES)


def read_manifest(path: str) -> Iterator[Clip]:
    """The clips of a manifest, in its order.

    Raises:
        UsageError: with the line, what was expected and what is there.
    """
    name = path.lower()
    try:
        if os.path.isdir(path):
            yield from _kaldi(path)
        elif name.endswith(TABLES):
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as f:
                rows = csv.DictReader(f, delimiter="\t" if name.endswith(".tsv") else ",", strict=True)
                for row in rows:
                    yield _clip(path, rows.line_num, {k: v for k, v in row.items() if k and v not in (None, "")})
        elif name.endswith(LINES):
            opener = gzip.open if name.endswith(".gz") else open
            with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as f:
                for number, line in enumerate(f, 1):
                    if line.strip():
                        yield from _json(path, number, line)
        else:
            raise UsageError(f"{printable(path)}: expected a manifest (.csv, .tsv, .jsonl or a Kaldi data folder)")
    except csv.Error as e:
        raise UsageError(f"{printable(path)}:{rows.line_num}: not a row of a table: {e}") from e
    except (OSError, EOFError, zlib.error) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"{printable(path)}: the manifest cannot be read: {reason}") from e


def _error(path: str, line: int, message: str) -> UsageError:
    return UsageError(f"{printable(path)}:{line}: {printable(message)}")


def _json(path: str, number: int, line: str) -> Iterator[Clip]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise _error(path, number, f"expected one JSON object a line: {e}") from e
    if not isinstance(row, dict):
        raise _error(path, number, f"expected a JSON object, got {line.strip()[:40]}")
    if "sources" in row:
        yield _lhotse(path, number, row, row, {})
    elif isinstance(row.get("recording"), dict):
        start, length = _seconds(path, number, row, "start"), _seconds(path, number, row, "duration")
        if start is None or length is None:
            raise _error(path, number, "expected a cut with start and duration")
        channel = row.get("channel")
        if isinstance(channel, list):
            if len(channel) != 1:
                raise _error(path, number, f"expected a cut of one channel, got {channel}; audio.channels says which")
            channel = channel[0]
        more = {"start": start, "end": start + length, "channel": channel}
        yield _lhotse(path, number, row, row["recording"], more)
    elif "type" in row and "tracks" in row:
        raise _error(path, number, "expected recordings or cuts of one recording, got a mixed cut")
    else:
        yield _clip(path, number, row)


def _lhotse(
    path: str, line: int, named: Mapping[str, object], recording: Mapping[str, object], more: dict[str, object]
) -> Clip:
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise _error(path, line, "expected a recording of one source")
    if sources[0].get("type") != "file":
        raise _error(path, line, f"expected a source of type file, got {sources[0].get('type')!r}; nothing is run")
    if recording.get("transforms"):
        raise _error(path, line, "expected a recording without transforms")
    return _clip(path, line, {"path": sources[0].get("source"), "id": named.get("id"), **more})


def _clip(path: str, line: int, row: Mapping[str, object]) -> Clip:
    """One clip from the keys of a row."""
    key = next((k for k in PATH_KEYS if k in row), None)
    if key is None:
        keys = ", ".join(map(str, list(row)[:8])) or "nothing"
        raise _error(path, line, f"expected a path (or audio_filepath), got {keys}")
    file = row[key]
    if not isinstance(file, str) or not below(file):
        raise _error(path, line, f"expected {key} to be a path, got {file!r}")
    if file.rstrip().endswith("|"):
        raise _error(path, line, f"expected a file, got a pipe, and commands are never run: {file}")
    start, end = _seconds(path, line, row, "start"), _seconds(path, line, row, "end")
    offset, duration = _seconds(path, line, row, "offset"), _seconds(path, line, row, "duration")
    if start is not None and offset is not None:
        raise _error(path, line, f"expected a start or an offset, got {start:g} and {offset:g}")
    if end is None and duration is not None and (start is not None or offset is not None):
        end = (start or offset or 0.0) + duration
    start = start if start is not None else (offset or None)
    fault = None
    if end is not None and end <= (start or 0.0):
        fault = "bad-segment", f"expected a segment that ends after its start, got {start or 0:g} to {end:g} s"
    channel = row.get("channel")
    if channel is not None:
        if isinstance(channel, bool) or not str(channel).isdecimal():
            raise _error(path, line, f"expected channel to be a number from 0, got {channel!r}")
        channel = int(str(channel))
    name = row.get("id")
    if name is None:
        name = below(file) + (f"#t={start or 0:g},{'' if end is None else f'{end:.10g}'}" if start or end else "")
    elif not isinstance(name, str | int) or isinstance(name, bool) or not below(str(name)):
        raise _error(path, line, f"expected id to be a name, got {name!r}")
    return Clip(below(str(name)), _resolved(file, path), start, end, channel, fault=fault)


def _resolved(file: str, manifest: str) -> str:
    """The path as written, or below the manifest's folder if the file is there and not here."""
    if not os.path.isabs(file) and not os.path.exists(file):
        other = os.path.join(os.path.dirname(manifest), file)
        if os.path.exists(other):
            return other
    return file


def _seconds(path: str, line: int, row: Mapping[str, object], key: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError
    except (ValueError, OverflowError):
        raise _error(path, line, f"expected {key} in seconds, from 0, got {value!r}") from None
    return number


def _kaldi(folder: str) -> Iterator[Clip]:
    """wav.scp: `recording path`; segments, if there: `utterance recording start end`, end -1 for the file's end."""
    scp = os.path.join(folder, "wav.scp")
    recordings: dict[str, str] = {}
    for number, words in _words(scp, 1):
        name, file = words
        if file.endswith("|") or file.startswith("|"):
            raise _error(scp, number, f"expected a file, got a pipe, and commands are never run: {file}")
        if file == "-" or ".ark:" in file:
            raise _error(scp, number, f"expected a file, got {file}")
        if name in recordings:
            raise _error(scp, number, f"the recording {name} is there twice: {recordings[name]} and {file}")
        recordings[name] = file
    segments = os.path.join(folder, "segments")
    if not os.path.exists(segments):
        for name, file in recordings.items():
            yield Clip(below(name), _resolved(file, scp))
        return
    for number, words in _words(segments, 3):
        name, recording, start, end = words[0], words[1], words[2], words[3]
        if recording not in recordings:
            raise _error(segments, number, f"expected a recording of wav.scp, got {recording}")
        row = {"path": recordings[recording], "id": name, "start": start}
        yield _clip(segments, number, row if end.strip() == "-1" else {**row, "end": end})


def _words(path: str, splits: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="surrogateescape").split("\n"), 1):
        words = line.strip().split(maxsplit=splits)
        if words:
            if len(words) != splits + 1:
                raise _error(path, number, f"expected {splits + 1} fields, got {len(words)}")
            yield number, words
