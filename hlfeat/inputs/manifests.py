"""Manifests: JSON lines of NeMo, lhotse and hlfeat, and Kaldi data folders (and hlfeat/inputs/tables.py). Segments too.

| manifest | a clip is | its id |
|---|---|---|
| `.csv`, `.tsv` with a header | a row: path; optional: id, start, end (seconds), channel | id, or the path |
| `.jsonl`, `.jsonl.gz` | an object with the same keys | id, or the path |
| lhotse's recordings or cuts (`.jsonl`, `.jsonl.gz`) | a recording, a cut | id |
| Kaldi's data folder | a line of `segments` if there is one, else of `wav.scp` | its first word |

hlfeat/inputs/columns.py knows other names of these keys. NeMo's are read too: audio_filepath for path, offset for
start, and a duration from there instead of end. A duration alone is that of the file, as NeMo writes it, and makes no
segment. Other keys are metadata of the clip (hlfeat/inputs/metadata.py).

A path is taken as written; if there is no such file, as one below the manifest's folder. Without an id, the id of a
segment is its path with `#t=start,end` (W3C Media Fragments). Nothing in a manifest is ever run: Kaldi's pipes fail.

A row that cannot be used is a clip that fails (bad-row), and the others are used. A manifest that cannot be read, or is
none, ends the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence

from hlfeat.audio.clip import Clip
from hlfeat.errors import UsageError
from hlfeat.inputs.base import GIVEN, Argument, InputKind
from hlfeat.inputs.columns import ColumnError, Columns, TimeColumn, understand_columns
from hlfeat.inputs.rows import BadRowError, RowClips, clip_of_row, seconds_of
from hlfeat.inputs.text_files import open_text
from hlfeat.text import escape_unprintable

LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
_SEGMENT = Columns(
    paths=("path",), id="id", channel="channel", times={"start": TimeColumn("start"), "end": TimeColumn("end")}
)
_DEEPEST = 32  # levels of lists and objects in a value; Python's functions end at about 1000 calls
_SUPERVISION = ("text", "speaker", "language", "gender")  # what is metadata of a supervision of lhotse's
_SPEAKERS_GENDER = "gender of a speaker"
_KALDI_FILES = {  # of a data folder, and what they say of each utterance
    "text": "text",
    "utt2spk": "speaker",
    "utt2lang": "language",
    "utt2gender": "gender",
    "spk2gender": _SPEAKERS_GENDER,
}


class JsonLines(InputKind):
    """One JSON object a line: NeMo's, lhotse's, or with the columns of a table as keys."""

    origins = GIVEN

    def matches(self, argument: Argument) -> bool:
        return argument.name.lower().endswith(LINES)

    def clips(self, argument: Argument) -> Iterator[Clip]:
        rows = RowClips(argument.path, argument.root, argument.url)
        with open_text(argument.path, content=argument.content()) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        rows.add(number, _json_clip, rows, line)
                    except ColumnError as e:
                        where = f"{escape_unprintable(argument.path)}:{number}"
                        raise UsageError(f"{where}: {escape_unprintable(str(e))}") from e
        yield from rows.clips()


def read_json_row(line: str) -> dict[str, object]:
    """The object of a line. Raises BadRowError where it is none, or is nested too deep."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise BadRowError(f"expected one JSON object a line: {e}", alien=True) from e
    if not isinstance(row, dict):
        raise BadRowError(f"expected a JSON object, got {line.strip()[:40]}", alien=True)
    if _is_nested(row):
        raise BadRowError(f"expected values nested at most {_DEEPEST} deep", row.get("id"))
    return row


def _json_clip(rows: RowClips, line: str) -> Clip:
    row = read_json_row(line)
    if "sources" in row:
        return _lhotse_clip(rows, row.get("id"), row, {})
    recording = row.get("recording")
    if isinstance(recording, dict):
        return _lhotse_clip(rows, row.get("id"), recording, row)
    if "type" in row and "tracks" in row:
        raise BadRowError("expected recordings or cuts of one recording, got a mixed cut", row.get("id"))
    columns = understand_columns(tuple(key for key in row if _may_be_read(key, row[key])))
    others = {key: value for key, value in row.items() if key not in columns.interpreted}
    return clip_of_row(rows, row, columns, rows.metadata.of(others))


def _is_nested(value: object) -> bool:
    """Whether lists and objects in it are deeper in one another than what walks through them can follow."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        within = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [item for items in within for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _may_be_read(key: str, value: object) -> bool:
    """Whether the value may be a path, a name, a number, or a pair of times, and not data of another kind."""
    if key in ("path", "id", "channel"):
        return True
    if isinstance(value, list):
        return len(value) == 2 and all(isinstance(item, int | float) for item in value)
    return isinstance(value.get("path"), str) if isinstance(value, dict) else value is not None


def _lhotse_clip(rows: RowClips, id_: object, recording: Mapping[str, object], cut: Mapping[str, object]) -> Clip:
    """A recording, or a cut of it."""
    try:
        source = _lhotse_source(recording)
        segment = _lhotse_segment(cut) if cut else {}
    except BadRowError as e:
        e.name(id_)
        raise
    return clip_of_row(rows, {"path": source, "id": id_, **segment}, _SEGMENT, rows.metadata.of(_lhotse_meta(cut)))


def _lhotse_meta(cut: Mapping[str, object]) -> dict[str, object]:
    """What the supervisions of a cut say, as of one: of several, a value that differs is a list. And `custom`."""
    meta: dict[str, object] = {}
    supervisions = cut.get("supervisions")
    parts = [part for part in supervisions if isinstance(part, dict)] if isinstance(supervisions, list) else []
    for part in parts:
        meta |= dict.fromkeys(key for key in _SUPERVISION if part.get(key) is not None)
        meta |= dict.fromkeys(_custom(part))
    for key in meta:
        values = [part.get(key) if key in _SUPERVISION else _custom(part).get(key) for part in parts]
        meta[key] = values[0] if all(value == values[0] for value in values) else values
    return {**meta, **_custom(cut)}


def _custom(item: Mapping[str, object]) -> dict[str, object]:
    custom = item.get("custom")
    return custom if isinstance(custom, dict) else {}


def _lhotse_source(recording: Mapping[str, object]) -> object:
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise BadRowError("expected a recording of one source")
    if sources[0].get("type") != "file":
        kind = sources[0].get("type")
        raise BadRowError(f"expected a source of type file, got {kind!r}; commands are never run")
    if recording.get("transforms"):
        raise BadRowError("expected a recording without transforms")
    return sources[0].get("source")


def _lhotse_segment(cut: Mapping[str, object]) -> dict[str, object]:
    start, length = seconds_of(cut, TimeColumn("start")), seconds_of(cut, TimeColumn("duration"))
    if start is None or length is None:
        raise BadRowError("expected a cut with start and duration")
    channel = cut.get("channel")
    if isinstance(channel, list):
        if len(channel) != 1:
            raise BadRowError(f"expected a cut of one channel, got {channel}; audio.channels says which")
        channel = channel[0]
    return {"start": start, "end": start + length, "channel": channel}


class KaldiFolder(InputKind):
    """A folder with `wav.scp`, and maybe `segments`; and `text`, `utt2spk` and the like, which are metadata.

    A line of wav.scp is `recording path`; one of segments is `utterance recording start end`, where end -1 means the
    end of the file.
    """

    origins = GIVEN

    def matches(self, argument: Argument) -> bool:
        return argument.is_folder and os.path.isfile(os.path.join(argument.path, "wav.scp"))

    def clips(self, argument: Argument) -> Iterator[Clip]:
        scp, segments = (os.path.join(argument.path, name) for name in ("wav.scp", "segments"))
        lines = RowClips(scp, argument.root)
        metadata = _KaldiMetadata(argument.path)
        recordings: dict[str, str | None] = {}
        for number, fields in _lines(scp, 2):
            lines.add(number, _kaldi_recording, lines, fields, recordings, metadata)
        if not os.path.exists(segments):
            yield from lines.clips()
            return
        yield from (clip for clip in lines.clips(named=False) if clip.fault is not None)
        rows = RowClips(segments, argument.root)
        for number, fields in _lines(segments, 4):
            rows.add(number, _kaldi_segment, rows, fields, recordings, metadata)
        yield from rows.clips()


class _KaldiMetadata:
    """What the files of a data folder say of utterances: their text, speaker, language and gender."""

    def __init__(self, folder: str) -> None:
        self._by_name = {}
        for file, name in _KALDI_FILES.items():
            path = os.path.join(folder, file)
            if os.path.isfile(path):
                self._by_name[name] = {fields[0]: " ".join(fields[1:]) for _, fields in _lines(path, 2)}
        self._genders = self._by_name.pop(_SPEAKERS_GENDER, {})

    def of(self, utterance: str) -> dict[str, object]:
        meta: dict[str, object] = {
            name: values[utterance] for name, values in self._by_name.items() if utterance in values
        }
        if "gender" not in meta and meta.get("speaker") in self._genders:
            meta["gender"] = self._genders[str(meta["speaker"])]
        return meta


def _kaldi_recording(
    rows: RowClips, fields: Sequence[str], recordings: dict[str, str | None], metadata: _KaldiMetadata
) -> Clip:
    """A line of wav.scp as a clip. Adds it to the recordings; with None, if it cannot be used."""
    name, file = _expect_fields(fields, 2)
    if name in recordings:
        raise BadRowError(f"two recordings with the name {name}: {recordings[name] or 'another'} and {file}")
    recordings[name] = None
    if file.endswith("|") or file.startswith("|"):
        raise BadRowError(f"expected a file, got a pipe, and commands are never run: {file}", name)
    if file == "-" or ".ark:" in file:
        raise BadRowError(f"expected a file, got {file}", name)
    recordings[name] = file
    return clip_of_row(rows, {"path": file, "id": name}, _SEGMENT, rows.metadata.of(metadata.of(name)))


def _kaldi_segment(
    rows: RowClips, fields: Sequence[str], recordings: Mapping[str, str | None], metadata: _KaldiMetadata
) -> Clip:
    name, recording, start, end = _expect_fields(fields, 4)
    if len(end.split()) > 1:
        raise BadRowError(f"expected 4 fields, got {3 + len(end.split())}; channels are not read", name)
    if recording not in recordings:
        raise BadRowError(f"expected a recording of wav.scp, got {recording}", name)
    if recordings[recording] is None:
        raise BadRowError(f"its recording {recording} cannot be used", name)
    row = {"path": recordings[recording], "id": name, "start": start}
    row = row if end.strip() == "-1" else {**row, "end": end}
    return clip_of_row(rows, row, _SEGMENT, rows.metadata.of(metadata.of(name)))


def _expect_fields(fields: Sequence[str], n: int) -> Sequence[str]:
    if len(fields) != n:
        raise BadRowError(f"expected {n} fields, got {len(fields)}")
    return fields


def _lines(path: str, n: int) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not empty; the last of `n` fields may contain spaces."""
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.strip().split(maxsplit=n - 1)
            if fields:
                yield number, fields
