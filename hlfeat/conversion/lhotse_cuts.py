"""lhotse: `cuts.jsonl.gz`, and manifests of features, recordings and supervisions.

A clip is a cut with its features, as a `.npy` of [frames, channels * bands], which lhotse reads as it is
(`numpy_files`); its recording; and a supervision if the manifest of the run had columns. lhotse expects
round(seconds / frame shift) frames. Where a clip has one more, for a part of a hop at its end, its features are so much
longer; a cut does not go beyond its recording, and has the frame only inside a segment.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hlfeat.conversion.draft_file import DraftFile
from hlfeat.conversion.lhotse_records import ClipRecords
from hlfeat.conversion.source import Source, SourceClip
from hlfeat.conversion.target import Conversion, Export, cast
from hlfeat.errors import UsageError
from hlfeat.files import TEMPORARY, publish, sync, sync_folder
from hlfeat.storage.index_entry import IndexEntry

MANIFESTS = ("recordings", "supervisions", "features", "cuts")  # the last says that all are there


class LhotseCuts(Export):
    """`part-00000/` with features for each shard, and the manifests of all."""

    suffix = ""

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        self._cuts = ClipRecords(conversion)

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
