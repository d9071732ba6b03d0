"""A feature directory as it lies: its layout, its shards one at a time, what failed, what is missing."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.config.fingerprint import frames_fingerprint
from hlfeat.errors import OutputError, UsageError
from hlfeat.partition import WHOLE, Part
from hlfeat.statistics.moments import moments, no_moments
from hlfeat.statistics.shard_statistics import ShardStatistics, read_shard_statistics
from hlfeat.storage.description import read_description
from hlfeat.storage.formats import ShardReader
from hlfeat.storage.layout import shard_indexes, statistics_name
from hlfeat.storage.records import FAILURE_KEYS, INDEX_KEYS, Record, read_records

log = logging.getLogger("hlfeat")
PART_FILE = re.compile(r"(?:shard|stats|failures|report|hlfeat)-p(\d+)of(\d+)[-.].*")


class FeatureDir:
    """What hlfeat.yaml says and which files there are; everything else is read when it is asked for.

    Raises:
        UsageError: that is not a feature directory.
        OutputError: hlfeat.yaml is damaged.

    Attributes:
        description: what hlfeat.yaml says.
        shape: of a row of the features: (channels, bands), or (dims,) of pooled ones.
        frames_per_second: None where it is not told.
        dtype, pool, fingerprint: of the features; frames_fingerprint: of the frames, however they are stored.
        indexes: the index files of the shards, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "hlfeat.yaml").exists():
            raise UsageError(f"{folder}: not a feature directory: there is no hlfeat.yaml in it")
        self.description = read_description(folder)
        features = self.description.get("features") or {}
        try:
            self.pool: str | None = features.get("pool")
            keys = ("channels", "bands") if self.pool is None else ("dims",)
            self.shape = tuple(int(features[key]) for key in keys)
            rate = features.get("frames_per_second")
            self.frames_per_second = None if rate is None else float(rate)
            if not all(0 < n < 2**31 for n in self.shape):
                raise ValueError(self.shape)
            self.dtype: np.dtype[Any] = np.dtype(self.description["config"]["output"]["dtype"])
            self.fingerprint = str(self.description["fingerprint"])
            files = [(self.description.get(key) or {}).get("sha256") for key in ("weights", "stats")]
            self.frames_fingerprint = frames_fingerprint(self.description["config"], *files)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise OutputError(f"{folder / 'hlfeat.yaml'}: damaged: expected the layout of features") from e
        self.indexes = list(shard_indexes(folder).values())

    def records(self, index: Path) -> Iterator[Record]:
        """The lines of an index. Raises OutputError for one that is damaged."""
        return read_records(index, INDEX_KEYS)

    def sidecar(self, index: Path) -> ShardStatistics | None:
        """The statistics beside a shard; None where an earlier version wrote none."""
        return read_shard_statistics(self.folder / statistics_name(index.stem), *self.shape)

    def statistics(self, index: Path, clips: int, frames: int) -> tuple[ShardStatistics, bool]:
        """Those beside a shard with so many clips and frames, and True; False, and computed, if there are none.

        Raises OutputError where they are damaged, or of other clips than the index lists.
        """
        path = self.folder / statistics_name(index.stem)
        found = self.sidecar(index)
        there = found is not None
        if found is None:
            log.info("%s is missing (earlier versions wrote none): computing it from the data", path)
            found = self.compute(index)
        if (found.clips, found.moments.frames) != (clips, frames):
            own = f"{found.clips} clips and {found.moments.frames} frames"
            raise OutputError(f"{path}: damaged: of {own}, the index has {clips} and {frames}")
        return found, there

    def shard(self, index: Path, name: str) -> ShardReader:
        """The data of a shard, whose file the index calls by this name."""
        if name not in (f"{index.stem}.npy", f"{index.stem}.pt"):
            raise OutputError(f"{index}: damaged: expected {index.stem}.npy or .pt, got {name!r}")
        return ShardReader(self.folder / name, self.shape, self.dtype)

    def compute(self, index: Path) -> ShardStatistics:
        """The statistics of a shard from its data, but for silence, which features do not tell.

        Raises OutputError where index or data are damaged.
        """
        found = ShardStatistics.of(*self.shape)
        reader: ShardReader | None = None
        try:
            for record in self.records(index):
                reader = reader or self.shard(index, record["shard"])
                found.add(record["id"], reduce(add, map(moments, reader.read(record)), no_moments(*self.shape)), False)
        finally:
            if reader is not None:
                reader.close()
        return found

    def size(self) -> int:
        """Bytes of all shards' data that is there."""
        files = (index.with_suffix(s) for index in self.indexes for s in (".npy", ".pt"))
        return sum(f.stat().st_size for f in files if f.exists())

    def parts(self) -> list[Part]:
        """The parts that its files are of; the whole where there are none."""
        names = (PART_FILE.fullmatch(p.name) for p in self.folder.iterdir())
        of = {int(found[2]) for found in names if found}
        return [part for n in sorted(of) for part in WHOLE.split(n)] or [WHOLE]

    def failures(self) -> Iterator[Record]:
        """The lines of failures.jsonl, or of all parts'."""
        for part in self.parts():
            path = self.folder / part.file("failures.jsonl")
            if path.exists():
                yield from read_records(path, FAILURE_KEYS)

    def missing(self, clips: int, failures: int) -> list[str]:
        """Why the directory is not complete, given what it holds; nothing where it is."""
        parts = self.parts()
        if parts != [WHOLE]:
            names = [p.file("report.json") for p in parts]
            return [f"no {name}: that part is not done" for name in names if not (self.folder / name).exists()]
        try:
            report = json.loads((self.folder / "report.json").read_bytes())
            told = report["clips"], report["failures"]
        except FileNotFoundError:
            return ["no report.json: the run was stopped, or is at work"]
        except (OSError, ValueError, RecursionError, TypeError, KeyError):
            return ["report.json is damaged"]
        if told != (clips, failures):
            return [f"report.json is of {told[0]} clips and {told[1]} failures, an earlier run's"]
        return []
