"""The clips of a finished feature directory, in order, whose checksums are compared while they are read."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import OutputError, UsageError
from hlfeat.storage.description import read_description_dict
from hlfeat.storage.feature_dir import FeatureDir, whole_if_short
from hlfeat.storage.feature_format import FeatureReader
from hlfeat.storage.index_entry import IndexEntry, read_whole_index
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.metadata import meta_of
from hlfeat.storage.run_dir import RunDir
from hlfeat.text import escape_unprintable


@dataclass(frozen=True)
class SourceClip:
    """A clip of the source.

    Attributes:
        entry: its index line.
        line: the same as plain data, with keys of other versions.
        group: the id of the input; several clips have the same where each channel of a file is a clip.
        silent: whether all samples are 0, as far as it is known.
    """

    entry: IndexEntry
    line: Mapping[str, Any]
    group: str
    silent: bool
    _reader: FeatureReader

    @property
    def meta(self) -> Mapping[str, Any]:
        """Columns of the manifest."""
        return meta_of(self.line)

    @property
    def start(self) -> float:
        """Where the clip begins in its recording, in seconds."""
        return self.entry.start or 0.0

    def chunks(self) -> Iterator[np.ndarray]:
        """The features. Shape: [n, *row_shape] each.

        Raises OutputError at the end where the checksum is not that of the index.
        """
        checksum = 0
        for chunk in self._reader.read(self.entry):
            chunk = np.ascontiguousarray(chunk)
            checksum = zlib.crc32(chunk.data, checksum)
            yield chunk
        expected = self.entry.crc32  # the first version wrote none
        if expected is not None and checksum != expected:
            raise OutputError(
                f"{self._reader.path}: damaged: {escape_unprintable(self.entry.id)}: expected the sum crc32 {expected} "
                f"as the index has, got {checksum}",
                remedy="repair",
            )

    def pieces(self) -> Iterator[np.ndarray]:
        """The same, a clip that is not very long as a whole."""
        yield from whole_if_short(self.chunks(), self.entry.frames * self._reader.row_bytes)

    def whole(self) -> np.ndarray:
        """Shape: [frames, *row_shape]."""
        chunks = list(self.chunks())
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


class Source(FeatureDir):
    """A feature directory that is complete.

    Raises:
        UsageError: not a feature directory, but one of pitch tracks for instance.
        OutputError: hlfeat.yaml is damaged.

    Attributes:
        data: hlfeat.yaml as plain data.
    """

    def __init__(self, folder: Path) -> None:
        if RunDir(folder).description.pitch is not None:
            raise UsageError(f"{folder}: holds pitch tracks, a CSV for each clip already: expected features")
        super().__init__(folder)
        self.data = read_description_dict(folder)
        self._each = (self.data["config"].get("audio") or {}).get("channels") == "each"

    def check_complete(self, clips: int) -> None:
        """Raises OutputError where a run is not finished that was to make more than these clips."""
        reasons = self.missing(clips, sum(1 for _ in self.failures()))
        if reasons:
            raise OutputError(f"{self.folder}: is not complete: {reasons[0]}", remedy="finish")
        if not clips:
            raise OutputError(f"{self.folder}: there is no clip in it to convert")

    def group(self, entry: IndexEntry) -> str:
        """The id of the input that a clip is of."""
        return entry.id.rpartition("#")[0] if self._each else entry.id

    def lines(self, shard: ShardFiles) -> Iterator[tuple[IndexEntry, dict[str, Any]]]:
        """The index of a shard, also as plain data."""
        return read_whole_index(shard.index)

    def clips(self) -> Generator[SourceClip, None, None]:
        """All clips. A shard is open until the first clip of the next one is asked for."""
        for shard in self.shards:
            statistics = self.stored_statistics(shard)
            silent = frozenset() if statistics is None else frozenset(statistics.silent)
            reader: FeatureReader | None = None
            try:
                for entry, line in self.lines(shard):
                    reader = reader or self.open_shard(shard, entry.shard)
                    yield SourceClip(entry, line, self.group(entry), entry.id in silent, reader)
            finally:
                if reader is not None:
                    reader.close()

    def digest(self) -> str:
        """Identifies the features, their order and their metadata: SHA-256 of the fingerprint and of all indexes."""
        sha = hashlib.sha256(self.description.fingerprint.encode())
        for shard in self.shards:
            sha.update(shard.index.name.encode())
            with open(shard.index, "rb") as f:
                while block := f.read(1 << 20):
                    sha.update(block)
        return sha.hexdigest()
