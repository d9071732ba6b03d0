"""JSON lines of NeMo, lhotse and hlfeat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from hlfeat.audio.clip import Clip
from hlfeat.inputs.rows import clip_of_row, row_error, seconds_of

LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


def json_clips(path: str, number: int, line: str) -> Iterator[Clip]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise row_error(path, number, f"expected one JSON object a line: {e}") from e
    if not isinstance(row, dict):
        raise row_error(path, number, f"expected a JSON object, got {line.strip()[:40]}")
    if "sources" in row:
        yield _lhotse(path, number, row, row, {})
    elif isinstance(row.get("recording"), dict):
        start, length = seconds_of(path, number, row, "start"), seconds_of(path, number, row, "duration")
        if start is None or length is None:
            raise row_error(path, number, "expected a cut with start and duration")
        channel = row.get("channel")
        if isinstance(channel, list):
            if len(channel) != 1:
                raise row_error(
                    path, number, f"expected a cut of one channel, got {channel}; audio.channels says which"
                )
            channel = channel[0]
        more = {"start": start, "end": start + length, "channel": channel}
        yield _lhotse(path, number, row, row["recording"], more)
    elif "type" in row and "tracks" in row:
        raise row_error(path, number, "expected recordings or cuts of one recording, got a mixed cut")
    else:
        yield clip_of_row(path, number, row)


def _lhotse(
    path: str, line: int, named: Mapping[str, object], recording: Mapping[str, object], more: dict[str, object]
) -> Clip:
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise row_error(path, line, "expected a recording of one source")
    if sources[0].get("type") != "file":
        raise row_error(path, line, f"expected a source of type file, got {sources[0].get('type')!r}; nothing is run")
    if recording.get("transforms"):
        raise row_error(path, line, "expected a recording without transforms")
    return clip_of_row(path, line, {"path": sources[0].get("source"), "id": named.get("id"), **more})
