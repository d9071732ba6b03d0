"""Kaldi archives: `feats.scp` and the tables of a data folder.

A matrix is written as Kaldi's `BaseFloat` one: a marker, rows and columns, and float32 values, row by row. Keys are the
ids; characters that Kaldi allows in no key are as in a URL (`%20`).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hlfeat.conversion.metadata import LANGUAGE, SPEAKER, TEXT, as_unicode, first_of
from hlfeat.conversion.source import Source, SourceClip
from hlfeat.conversion.target import Conversion, DraftFile, Export, cast, key_of
from hlfeat.errors import UsageError
from hlfeat.files import json_lines, write_atomically

_SPACE = re.compile(r"\s")


def kaldi_key(text: str) -> str:
    """A key for Kaldi: without spaces.

    >>> kaldi_key("a b/c.wav")
    'a%20b/c.wav'
    """
    return key_of(text, _SPACE)


class KaldiArchives(Export):
    """`feats-00000.ark` and its `feats-00000.scp` for each shard, and the tables of all."""

    suffix = ".scp"

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        self._folder = os.path.abspath(conversion.folder)

    @classmethod
    def check(cls, source: Source, dtype: np.dtype[Any] | None, frames: bool) -> np.dtype[Any]:
        super().check(source, dtype, frames)
        if dtype is not None and dtype != np.float32:
            raise UsageError(f"dtype: expected float32, which Kaldi's matrices are of, got {dtype.name}")
        return np.dtype(np.float32)

    def begin(self) -> bool:
        if "\n" in self._folder:
            raise UsageError(
                f"{self._folder!r}: expected a folder without a newline in its path, which .scp cannot hold"
            )
        return super().begin()

    def path(self, number: int) -> Path:
        return self.conversion.folder / f"feats-{number:05d}{self.suffix}"

    def open(self, number: int) -> ArchiveShard:
        return ArchiveShard(self.path(number), self._folder, self.conversion.dims)

    def write_last(self) -> Sequence[Path]:
        conversion, tables = self.conversion, _Tables()
        for shard in conversion.source.shards:
            for entry, line in conversion.source.lines(shard):
                meta = line.get("meta")
                tables.add(entry.id, entry.duration, entry.frames, meta if isinstance(meta, dict) else {}, line)
        scp = b"".join(self.path(number).read_bytes() for number in conversion.plan.numbers)
        files = {
            "utt2spk": tables.speakers,
            "spk2utt": tables.utterances_of_speakers(),
            "utt2dur": tables.durations,
            "utt2num_frames": tables.frames,
            "text": tables.texts,
            "utt2lang": tables.languages,
        }
        for name, lines in files.items():
            if lines:
                self._write(name, _sorted(line.encode() for line in lines))
        features = conversion.source.description.features
        if features.pool is None and features.frames_per_second:
            self._write("frame_shift", f"{1 / features.frames_per_second:g}\n".encode())
        self._write("clips.jsonl", json_lines(tables.clips))
        return [self._write("feats.scp", _sorted(scp.splitlines()))]  # the last: whoever sees it sees all

    def _write(self, name: str, data: bytes) -> Path:
        path = self.conversion.folder / name
        write_atomically(path, data)
        return path


class ArchiveShard(DraftFile):
    """One archive; an OpenShard. Its .scp appears last, and says that it is complete.

    Args:
        scp: path of the .scp.
        folder: the absolute path of the folder, for what the .scp says.
        columns: of a matrix.
    """

    def __init__(self, scp: Path, folder: str, columns: int) -> None:
        super().__init__(scp.with_suffix(".ark"))
        self._scp, self._folder, self._columns = scp, folder, columns
        self._lines: list[str] = []

    def add(self, clip: SourceClip) -> None:
        key, file = kaldi_key(clip.entry.id), self.file
        file.write(f"{key} ".encode())
        self._lines.append(f"{key} {self._folder}/{self.path.name}:{file.tell()}\n")
        sizes = struct.pack("<bibi", 4, clip.entry.frames, 4, self._columns)
        file.write(b"\0BFM " + sizes)
        for chunk in clip.chunks():
            file.write(cast(clip, chunk, np.dtype("<f4")).data)

    def commit(self) -> list[Path]:
        path = self.publish()
        write_atomically(self._scp, "".join(self._lines).encode("utf-8", "surrogateescape"))
        return [path]


class _Line(NamedTuple):
    key: str
    value: str

    def encode(self) -> bytes:
        return f"{self.key} {self.value}".encode()


class _Tables:
    """Lines of the tables of a data folder."""

    def __init__(self) -> None:
        self.speakers: list[_Line] = []
        self.durations: list[_Line] = []
        self.frames: list[_Line] = []
        self.texts: list[_Line] = []
        self.languages: list[_Line] = []
        self.clips: list[dict[str, Any]] = []

    def add(self, id_: str, seconds: float, frames: int, meta: dict[str, Any], line: dict[str, Any]) -> None:
        """Add a clip."""
        key = kaldi_key(id_)
        speaker, text, language = (first_of(meta, names) for names in (SPEAKER, TEXT, LANGUAGE))
        self.speakers.append(_Line(key, key if speaker is None else kaldi_key(speaker[1])))
        self.durations.append(_Line(key, f"{seconds:g}"))
        self.frames.append(_Line(key, str(frames)))
        if text is not None:
            self.texts.append(_Line(key, as_unicode(" ".join(text[1].split()))))
        if language is not None:
            self.languages.append(_Line(key, kaldi_key(language[1])))
        self.clips.append({"key": key, **line})

    def utterances_of_speakers(self) -> list[_Line]:
        """spk2utt."""
        utterances: dict[str, list[str]] = {}
        for key, speaker in sorted(self.speakers, key=_Line.encode):
            utterances.setdefault(speaker, []).append(key)
        return [_Line(speaker, " ".join(keys)) for speaker, keys in utterances.items()]


def _sorted(lines: Iterable[bytes]) -> bytes:
    """As LC_ALL=C sorts, which Kaldi expects."""
    return b"".join(line + b"\n" for line in sorted(lines))
