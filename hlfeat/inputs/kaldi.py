"""Kaldi data folders: wav.scp and segments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hlfeat.audio.clip import Clip, relative_id
from hlfeat.inputs.rows import clip_of_row, resolve_path, row_error


def kaldi_clips(folder: str) -> Iterator[Clip]:
    """wav.scp: `recording path`; segments, if there: `utterance recording start end`, end -1 for the file's end."""
    scp = os.path.join(folder, "wav.scp")
    recordings: dict[str, str] = {}
    for number, words in _words(scp, 1):
        name, file = words
        if file.endswith("|") or file.startswith("|"):
            raise row_error(scp, number, f"expected a file, got a pipe, and commands are never run: {file}")
        if file == "-" or ".ark:" in file:
            raise row_error(scp, number, f"expected a file, got {file}")
        if name in recordings:
            raise row_error(scp, number, f"the recording {name} is there twice: {recordings[name]} and {file}")
        recordings[name] = file
    segments = os.path.join(folder, "segments")
    if not os.path.exists(segments):
        for name, file in recordings.items():
            yield Clip(relative_id(name), resolve_path(file, scp))
        return
    for number, words in _words(segments, 3):
        name, recording, start, end = words[0], words[1], words[2], words[3]
        if recording not in recordings:
            raise row_error(segments, number, f"expected a recording of wav.scp, got {recording}")
        row = {"path": recordings[recording], "id": name, "start": start}
        yield clip_of_row(segments, number, row if end.strip() == "-1" else {**row, "end": end})


def _words(path: str, splits: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="surrogateescape").split("\n"), 1):
        words = line.strip().split(maxsplit=splits)
        if words:
            if len(words) != splits + 1:
                raise row_error(path, number, f"expected {splits + 1} fields, got {len(words)}")
            yield number, words
