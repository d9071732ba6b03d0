"""Kaldi archives: `feats.scp` and the tables of a data folder.

A matrix is written as Kaldi's `BaseFloat` one: a marker, rows and columns, and float32 values, row by row. Keys are the
ids; characters that Kaldi allows in no key are as in a URL (`%20`). Where speakers are known, a key is `SPEAKER-ID`:
Kaldi wants one order by keys and by speakers. So a speaker has no characters up to the hyphen: `=20` is a space.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hlfeat.conversion.draft_file import DraftFile
from hlfeat.conversion.keys import key_of
from hlfeat.conversion.metadata import LANGUAGE, SPEAKER, TEXT, first_of
from hlfeat.conversion.source import Source, SourceClip
from hlfeat.conversion.target import Conversion, Export, cast
from hlfeat.errors import UsageError
from hlfeat.files import json_lines, write_atomically
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.metadata import meta_of
from hlfeat.text import as_unicode

_SPACE = re.compile(r"\s")
_UP_TO_HYPHEN = re.compile(r"[\x00-\-]|\s")


def kaldi_key(text: str) -> str:
    """A key for Kaldi: without spaces.

    >>> kaldi_key("a b/c.wav")
    'a%20b/c.wav'
    """
    return key_of(text, _SPACE)


def speaker_key(text: str) -> str:
    """A speaker for Kaldi. In ASCII all characters of it are after the hyphen, so that `SPEAKER-ID` sorts as it does.

    >>> speaker_key("anna 2-b")
    'anna=202=2Db'
    """
    return key_of(text, _UP_TO_HYPHEN, "=")


def utterance_keys(id_: str, meta: Mapping[str, Any], speakers: bool) -> tuple[str, str]:
    """The keys of a clip and of its speaker. A clip without one is its own speaker.

    Args:
        speakers: whether any clip may have one.

    >>> utterance_keys("a b-c", {"speaker": "anna"}, True), utterance_keys("a b-c", {}, True)
    (('anna-a%20b-c', 'anna'), ('a=20b=2Dc', 'a=20b=2Dc'))
    """
    if not speakers:
        return kaldi_key(id_), kaldi_key(id_)
    named = first_of(meta, SPEAKER)
    if named is None:
        return speaker_key(id_), speaker_key(id_)
    return f"{speaker_key(named[1])}-{kaldi_key(id_)}", speaker_key(named[1])


class KaldiArchives(Export):
    """`feats-00000.ark` and its `feats-00000.scp` for each shard, and the tables of all."""

    suffix = ".scp"

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        self._folder = os.path.abspath(conversion.folder)
        self._speakers = any(name in conversion.plan.columns for name in SPEAKER)

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

    def is_finished(self, number: int) -> bool:
        return super().is_finished(number) and self.path(number).with_suffix(".ark").exists()

    def open(self, number: int) -> ArchiveShard:
        return ArchiveShard(self.path(number), self._folder, self.conversion.dims, self._speakers)

    def write_last(self) -> Sequence[Path]:
        folder, features = self.conversion.folder, self.conversion.source.description.features
        utterances = self._write_clips()
        for name, table in _tables(utterances).items():
            write_atomically(folder / name, table)
        if features.pool is None and features.frames_per_second:
            write_atomically(folder / "frame_shift", f"{1 / features.frames_per_second!r}\n".encode())
        lines = (
            line for number in self.conversion.plan.numbers for line in self.path(number).read_bytes().splitlines()
        )
        scp = folder / "feats.scp"  # the last: whoever sees it sees all
        write_atomically(scp, b"".join(line + b"\n" for line in sorted(lines)))
        return [scp]

    def _write_clips(self) -> list[_Utterance]:
        """Write clips.jsonl, a line for each clip. Returns what the other tables have, as LC_ALL=C sorts keys."""
        source, utterances = self.conversion.source, []
        with DraftFile(self.conversion.folder / "clips.jsonl") as draft:
            for shard in source.shards:
                for entry, line in source.lines(shard):
                    utterance = _Utterance.of(entry, meta_of(line), self._speakers)
                    utterances.append(utterance)
                    draft.file.write(json_lines([{"key": utterance.key.decode(), **line}]))
            draft.publish()
        return sorted(utterances)


class ArchiveShard(DraftFile):
    """One archive; an OpenShard. Its .scp appears last, and says that it is complete.

    Args:
        scp: path of the .scp.
        folder: the absolute path of the folder, for what the .scp says.
        columns: of a matrix.
        speakers: as of `utterance_keys`.
    """

    def __init__(self, scp: Path, folder: str, columns: int, speakers: bool) -> None:
        super().__init__(scp.with_suffix(".ark"))
        self._scp, self._folder, self._columns, self._speakers = scp, folder, columns, speakers
        self._lines: list[str] = []

    def add(self, clip: SourceClip) -> None:
        key, file = utterance_keys(clip.entry.id, clip.meta, self._speakers)[0], self.file
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


class _Utterance(NamedTuple):
    """A clip in the tables; None for what is not known."""

    key: bytes
    speaker: bytes
    seconds: float
    frames: int
    text: bytes | None
    language: bytes | None

    @classmethod
    def of(cls, entry: IndexEntry, columns: Mapping[str, Any], speakers: bool) -> _Utterance:
        key, speaker = utterance_keys(entry.id, columns, speakers)
        text, language = (first_of(columns, names) for names in (TEXT, LANGUAGE))
        return cls(
            key.encode(),
            speaker.encode(),
            entry.duration,
            entry.frames,
            None if text is None else as_unicode(" ".join(text[1].split())).encode(),
            None if language is None else kaldi_key(language[1]).encode(),
        )


def _tables(utterances: Sequence[_Utterance]) -> dict[str, bytes]:
    """The tables of a data folder by name; those of which nothing is known are left out."""
    of_speaker: dict[bytes, list[bytes]] = {}
    for utterance in utterances:
        of_speaker.setdefault(utterance.speaker, []).append(utterance.key)
    tables = {
        "utt2spk": [(u.key, u.speaker) for u in utterances],
        "spk2utt": [(speaker, b" ".join(keys)) for speaker, keys in sorted(of_speaker.items())],
        "utt2dur": [(u.key, repr(u.seconds).encode()) for u in utterances],
        "utt2num_frames": [(u.key, b"%d" % u.frames) for u in utterances],
        "text": [(u.key, u.text) for u in utterances if u.text is not None],
        "utt2lang": [(u.key, u.language) for u in utterances if u.language is not None],
    }
    return {name: b"".join(b"%b %b\n" % line for line in lines) for name, lines in tables.items() if lines}
