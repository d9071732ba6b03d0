"""A feature directory as it lies: its layout, its shards one at a time, what failed, what is missing."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import IO, Any

import numpy as np

from hlfeat.config import frames_fingerprint
from hlfeat.errors import OutputError, UsageError
from hlfeat.moments import moments, nothing
from hlfeat.outdir import FAILURE_KEYS, INDEX_KEYS, read_description, read_records, shard_indexes
from hlfeat.parts import WHOLE, Part, statistics_name
from hlfeat.shards import Record
from hlfeat.sidecar import ShardStatistics, read_sidecar

log = logging.getLogger("hlfeat")

PIECE = 1 << 21  # bytes of a shard that are read at once
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
        return read_sidecar(self.folder / statistics_name(index.stem), *self.shape)

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
                found.add(record["id"], reduce(add, map(moments, reader.read(record)), nothing(*self.shape)), False)
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


class ShardReader:
    """The features of one shard, clip by clip in bounded memory (`.pt`: mapped).

    Raises OutputError where it cannot be read, or is not of that shape and type.

    Attributes:
        rows: there are, all clips together; ids: of a `.pt` shard.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self.row_bytes = int(np.prod(shape)) * dtype.itemsize
        self._file: IO[bytes] | None = None
        self.ids: list[str] | None = None
        try:
            if path.suffix == ".pt":
                self._tensors = _load_pt(path)
                self.ids, self.rows = list(self._tensors), sum(map(len, self._tensors.values()))
            else:
                self._file = open(path, "rb")
                self.rows = self._read_header(self._file)
        except OSError as e:
            raise OutputError(f"{path}: cannot be read: {e.strerror}") from e
        except ValueError as e:
            self.close()
            raise OutputError(f"{path}: damaged: {' '.join(str(e).split())}") from e

    def _read_header(self, f: IO[bytes]) -> int:
        if np.lib.format.read_magic(f) != (1, 0):
            raise ValueError("expected version 1.0 of .npy")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(f)
        if shape[1:] != self.shape or dtype != self.dtype or fortran:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"expected [rows, {expected}] {self.dtype}, got {list(shape)} {dtype}")
        self._start = f.tell()
        there, wanted = f.seek(0, 2) - self._start, shape[0] * self.row_bytes
        if there != wanted:
            raise ValueError(f"expected {wanted} bytes for {shape[0]} rows, got {there}")
        return int(shape[0])

    def read(self, record: Record) -> Iterator[np.ndarray]:
        """A clip's features, in pieces. Shape: [n, *shape] each.

        Raises OutputError where they are not there.
        """
        row, frames = record["row"], record["frames"]
        step = max(1, PIECE // self.row_bytes)
        if self._file is None:
            clip = self._tensors.get(record["id"])
            if clip is None:
                raise OutputError(f"{self.path}: damaged: without {record['id']!r}")
            if clip.shape != (frames, *self.shape) or clip.dtype != self.dtype:
                raise OutputError(
                    f"{self.path}: damaged: expected {[frames, *self.shape]} {self.dtype} of {record['id']!r}, "
                    f"got {list(clip.shape)} {clip.dtype}"
                )
            yield from (clip[i : i + step] for i in range(0, frames, step))
            return
        if not 0 <= row <= row + frames <= self.rows:
            raise OutputError(f"{self.path}: damaged: shorter than its index says")
        self._file.seek(self._start + row * self.row_bytes)
        while frames:
            piece = np.empty((min(step, frames), *self.shape), self.dtype)
            if self._file.readinto(piece.data) != piece.nbytes:  # type: ignore[attr-defined]
                raise OutputError(f"{self.path}: damaged: shorter than its index says")
            yield piece
            frames -= len(piece)

    def close(self) -> None:
        """Give up the file."""
        if self._file is not None:
            self._file.close()


def _load_pt(path: Path) -> dict[str, np.ndarray]:
    """Raises ValueError for anything but a dict id -> tensor."""
    import pickle

    import torch

    try:
        found = torch.load(path, weights_only=True, mmap=True)
        return {str(k): v.numpy() for k, v in found.items()}
    except (RuntimeError, EOFError, AttributeError, TypeError, pickle.UnpicklingError) as e:
        reason = str(e).strip().splitlines()
        raise ValueError(reason[0] if reason else repr(e)) from e
