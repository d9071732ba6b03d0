"""lhotse: `cuts.jsonl.gz`, and manifests of features, recordings and supervisions.

A clip is a cut with its features, as a `.npy` of [frames, channels * bands], which lhotse reads as it is
(`numpy_files`); its recording; and a supervision if the manifest of the run had columns. lhotse expects
round(seconds / frame shift) frames. Where a clip has one more, for a part of a hop at its end, its features are so much
longer; a cut does not go beyond its recording, and has the frame only inside a segment.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hlfeat.conversion.metadata import GENDER, LANGUAGE, SPEAKER, TEXT, first_of
from hlfeat.conversion.source import Source, SourceClip
from hlfeat.conversion.target import Conversion, DraftFile, Export, cast
from hlfeat.errors import UsageError
from hlfeat.files import TEMPORARY, publish, sync, sync_folder
from hlfeat.storage.metadata import meta_of
from hlfeat.storage.records import IndexEntry
from hlfeat.storage.times import timing_of

MANIFESTS = ("recordings", "supervisions", "features", "cuts")  # the last says that all are there
_NAMED = {"text": TEXT, "speaker": SPEAKER, "language": LANGUAGE, "gender": GENDER}


class LhotseCuts(Export):
    """`part-00000/` with features for each shard, and the manifests of all."""

    suffix = ""

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        self._cuts = _Cuts(conversion)

    @classmethod
    def check(cls, source: Source, dtype: np.dtype[Any] | None, frames: bool) -> np.dtype[Any]:
        pool = source.description.features.pool
        if pool is not None:
            raise UsageError(
                f"{source.folder}: has vectors pooled over time ({pool}), a cut of lhotse has frames: choose parquet, "
                "csv or webdataset"
            )
        return super().check(source, dtype, frames)

    def open(self, number: int) -> ArrayFolder:
        return ArrayFolder(self.path(number), self.conversion)

    def write_last(self) -> list[Path]:
        folder, plan = self.conversion.folder, self.conversion.plan
        drafts = {name: _Manifest(folder / f"{name}.jsonl.gz") for name in MANIFESTS}
        try:
            entries = self._entries()
            for number, clips in zip(plan.numbers, plan.clips, strict=True):
                held = (pair for pair in islice(entries, clips) if pair[0].id not in self.lost)
                for i, (entry, line) in enumerate(held):
                    for name, record in self._cuts.records(entry, line, f"part-{number:05d}", _array_name(i)):
                        drafts[name].write(record)
            return [drafts[name].publish() for name in MANIFESTS if drafts[name].records]  # lhotse reads no empty ones
        finally:
            for draft in drafts.values():
                draft.close()

    def _entries(self) -> Iterator[tuple[IndexEntry, dict[str, Any]]]:
        source = self.conversion.source
        return (pair for shard in source.shards for pair in source.lines(shard))


def _array_name(i: int) -> str:
    """The file of the i-th clip of a shard."""
    return f"{i:06d}.npy"


class ArrayFolder:
    """The features of a shard, a file for each clip; an OpenShard."""

    def __init__(self, path: Path, conversion: Conversion) -> None:
        self._path, self._conversion, self._clips = path, conversion, 0
        self._temporary = path.with_name(path.name + TEMPORARY)
        self._temporary.mkdir()

    def __enter__(self) -> ArrayFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, clip: SourceClip) -> None:
        features = cast(clip, clip.whole(), self._conversion.dtype).reshape(clip.entry.frames, self._conversion.dims)
        with open(self._temporary / _array_name(self._clips), "wb") as f:
            np.lib.format.write_array(f, features, (1, 0), allow_pickle=False)
            sync(f)
        self._clips += 1

    def commit(self) -> list[Path]:
        sync_folder(self._temporary)
        publish(self._temporary, self._path)
        return [self._path]


class _Manifest:
    """Lines of JSON in gzip, which has no time in it: the same records make the same bytes.

    Attributes:
        records: how many have been written.
    """

    def __init__(self, path: Path) -> None:
        self.records = 0
        self._draft = DraftFile(path)
        self._gzip = gzip.GzipFile("", "wb", 6, self._draft.file, mtime=0)

    def write(self, record: Mapping[str, Any]) -> None:
        self.records += 1
        self._gzip.write((json.dumps(record) + "\n").encode("ascii"))

    def publish(self) -> Path:
        self._gzip.close()
        return self._draft.publish()

    def close(self) -> None:
        """Leave nothing of a manifest that is not published."""
        self._draft.__exit__(None, None, None)


class _Cuts:
    """The records of clips."""

    def __init__(self, conversion: Conversion) -> None:
        timing = timing_of(conversion.source.data, conversion.source.folder)
        self._rate, self._hop = timing.sample_rate, timing.hop_samples
        self._folder, self._dims = os.path.abspath(conversion.folder), conversion.dims
        self._recordings: set[str] = set()

    def records(
        self, entry: IndexEntry, line: Mapping[str, Any], folder: str, name: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The manifests and what is added to each.

        Args:
            entry, line: of the clip.
            folder, name: of the file of its features.
        """
        id_, channel = recording_id(entry), entry.channel or 0
        start, duration = entry.start or 0.0, self._duration(entry)
        recording = self._recording(entry)
        if recording is not None and id_ not in self._recordings:
            self._recordings.add(id_)
            yield "recordings", recording
        features = {
            "type": "hlfeat",
            "num_frames": entry.frames,
            "num_features": self._dims,
            "frame_shift": self._hop / self._rate,
            "sampling_rate": self._rate,
            "start": start,
            "duration": duration,
            "storage_type": "numpy_files",
            "storage_path": f"{self._folder}/{folder}",
            "storage_key": name,
            "recording_id": id_,
            "channels": channel,
        }
        yield "features", features
        supervisions = _supervisions(entry.id, id_, channel, entry.duration, meta_of(line))
        for supervision in supervisions:
            yield "supervisions", {**supervision, "start": start}
        if recording is not None and self._frames(left := recording["duration"] - start) > 0:
            duration = min(duration, left)
        cut = {"id": entry.id, "start": start, "duration": duration, "channel": channel, "supervisions": supervisions}
        with_recording = {} if recording is None else {"recording": recording}
        yield "cuts", {**cut, "features": features, **with_recording, "type": "MonoCut"}

    def _duration(self, entry: IndexEntry) -> float:
        """The duration for which lhotse expects as many frames as there are."""
        expected = self._frames(entry.duration)
        return entry.duration if expected == entry.frames else entry.frames * self._hop / self._rate

    def _frames(self, seconds: float) -> int:
        """How many frames lhotse expects."""
        return (round(seconds * self._rate) + self._hop // 2) // self._hop

    def _recording(self, entry: IndexEntry) -> dict[str, Any] | None:
        """The recording, resampled as features are computed of it; None where its length is not known."""
        rate = entry.sample_rate
        seconds = entry.duration if entry.start is None and entry.end is None else _seconds_of_file(entry)
        if rate is None or seconds is None:
            return None
        channels = list(range(entry.channels or 1))
        source = {"type": "file", "channels": channels, "source": entry.path}
        if entry.member is not None:
            command = shlex.join(["tar", "-xOf", entry.path, entry.member])
            source = {"type": "command", "channels": channels, "source": command}
        resampled = {"source_sampling_rate": rate, "target_sampling_rate": self._rate}
        samples = int(seconds * self._rate + 0.5)
        return {
            "id": recording_id(entry),
            "sources": [source],
            "sampling_rate": self._rate,
            "num_samples": samples,
            "duration": samples / self._rate,
            "channel_ids": channels,
            **({} if rate == self._rate else {"transforms": [{"name": "Resample", "kwargs": resampled}]}),
        }


def recording_id(entry: IndexEntry) -> str:
    """Names the recording of a clip: its path, also inside an archive."""
    return entry.path if entry.member is None else f"{entry.path}/{entry.member}"


def _supervisions(
    id_: str, recording: str, channel: int, duration: float, meta: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What the manifest of the run says of a clip; nothing where it says nothing."""
    if not meta:
        return []
    named = {field: value for field, names in _NAMED.items() if (value := first_of(meta, names)) is not None}
    taken = {name for name, _ in named.values()}
    custom = {name: value for name, value in meta.items() if name not in taken}
    return [
        {
            "id": id_,
            "recording_id": recording,
            "start": 0.0,
            "duration": duration,
            "channel": channel,
            **{field: value for field, (_, value) in named.items()},
            **({"custom": custom} if custom else {}),
        }
    ]


def _seconds_of_file(entry: IndexEntry) -> float | None:
    """How long the file of a segment is, which its header says; None where it cannot be read any more."""
    return None if entry.member is not None else _seconds(entry.path)


@lru_cache(maxsize=4096)  # segments of a file follow one another
def _seconds(path: str) -> float | None:
    import soundfile

    try:
        info = soundfile.info(path)
    except (OSError, RuntimeError):
        return None
    return float(info.frames / info.samplerate)
