"""What a format of a conversion must be able to do, and what those share that are no feature directory."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from hlfeat.conversion.draft_file import remove_draft
from hlfeat.conversion.identity import Identity, Marker, is_complete
from hlfeat.conversion.plan import Plan
from hlfeat.conversion.source import Source, SourceClip
from hlfeat.errors import UsageError
from hlfeat.files import TEMPORARY, json_lines, write_atomically
from hlfeat.storage.failure_record import FailureRecord
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import DirectoryLock


@dataclass(frozen=True)
class Conversion:
    """What is converted to what.

    Attributes:
        source, plan: the clips, and where shards end.
        folder: of the result.
        identity: of the conversion.
        dtype: of the features that are written.
    """

    source: Source
    plan: Plan
    folder: Path
    identity: Identity
    dtype: np.dtype[Any]

    @property
    def dims(self) -> int:
        """Values of a row."""
        return int(np.prod(self.source.shape))


class OpenShard(Protocol):
    """A shard that is being written; leaving the context without `commit` leaves no trace of it."""

    def add(self, clip: SourceClip) -> None:
        """Write a clip. Raises OutputError where its features are damaged."""

    def commit(self) -> Sequence[Path]:
        """Publish the shard. Returns the paths that are complete now."""


class Target(ABC):
    """One format. As a context, it holds the lock of the folder.

    Attributes:
        clips: how many are in the result, once it is finished.
        failed: how many clips have features that the dtype cannot hold, and are recorded as failures; also of a
            conversion that `begin` has found finished.
    """

    failed = 0

    def __init__(self, conversion: Conversion) -> None:
        self.conversion = conversion
        self.clips = conversion.plan.total

    @classmethod
    def check(cls, source: Source, dtype: np.dtype[Any] | None, frames: bool) -> np.dtype[Any]:
        """The type of the features that are written, if this one was asked for; by default that of the source.

        Raises UsageError where the format cannot hold the features, or a library is missing.
        """
        if frames:
            raise UsageError("frames: expected with a table: parquet or csv")
        return dtype or source.dtype

    @abstractmethod
    def begin(self) -> bool:
        """Prepare the folder, which is locked. Returns False where the conversion is finished already.

        Raises UsageError for a folder that holds anything else.
        """

    @abstractmethod
    def is_finished(self, number: int) -> bool:
        """Whether a shard is there."""

    def skip(self, number: int, clips: Iterable[SourceClip]) -> None:
        """Pass the clips of a finished shard, among them those that it does not hold."""
        for clip in clips:
            self.holds(clip)

    def holds(self, clip: SourceClip) -> bool:
        """Whether a shard can hold a clip; one that it cannot hold is recorded as a failure, and not added to it.

        Raises OutputError where its features are damaged.
        """
        return True

    @abstractmethod
    def open(self, number: int) -> AbstractContextManager[OpenShard]:
        """Begin a shard."""

    @abstractmethod
    def finish(self) -> Sequence[Path]:
        """Write what is written once, at the end. Returns the paths of it that a user looks for."""

    @abstractmethod
    def __enter__(self) -> Target: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...


class Export(Target):
    """A format that is no feature directory: its files are in a folder of their own, beside `_conversion.json`.

    Attributes:
        suffix: of the file whose presence says that a shard is finished.
    """

    suffix: ClassVar[str]

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        self.marker = Marker(conversion.folder)
        self.lost: dict[str, FailureRecord] = {}  # clips whose features the dtype cannot hold, by id
        self._rows_lost = 0
        self._lock: DirectoryLock | None = None

    def __enter__(self) -> Export:
        self._lock = DirectoryLock(Layout(self.conversion.folder))
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def begin(self) -> bool:
        folder = self.conversion.folder
        record = self.marker.read()
        if record is None:
            others = [p.name for p in folder.iterdir() if not self._is_passing(p)]
            if others:
                raise UsageError(f"{folder}: expected an empty or a new folder, found {min(others)!r} in it")
        else:
            self.conversion.identity.check_same(folder, record.get("conversion"))
            if is_complete(record) and self._is_all_there(record.get("files")):
                self.failed = record.get("failed", 0)
                return False
        for path in list(folder.iterdir()):
            if path.name.endswith(TEMPORARY):
                remove_draft(path)
        self.marker.write(self.conversion.identity, self._facts(), complete=False)
        return True

    def _is_all_there(self, names: object) -> bool:
        """Whether shards and other files of a finished conversion are still in the folder. No file is opened."""
        there = isinstance(names, list) and all((self.conversion.folder / str(name)).exists() for name in names)
        return there and all(map(self.is_finished, self.conversion.plan.numbers))

    def _is_passing(self, path: Path) -> bool:
        """Whether a file is a lock's, or what is left of writing the marker."""
        return path.name == self.marker.path.name + TEMPORARY or is_lock(path)

    def _facts(self) -> dict[str, Any]:
        """What the source's hlfeat.yaml says."""
        source = self.conversion.source
        plan = self.conversion.plan
        counts = {"clips": plan.total - len(self.lost), "rows": plan.frames - self._rows_lost}
        return {"from": os.fspath(source.folder), **counts, "description": source.data}

    def is_finished(self, number: int) -> bool:
        return self.path(number).exists()

    def holds(self, clip: SourceClip) -> bool:
        """A clip is read before a file has half of it, where its features are rounded to a smaller type."""
        dtype = self.conversion.dtype
        if dtype.itemsize >= self.conversion.source.dtype.itemsize:
            return True
        fits = True
        for chunk in clip.chunks():  # to the end, where the checksum is
            fits = fits and to_dtype(chunk, dtype) is not None
        if not fits:
            entry, message = clip.entry, cannot_hold(dtype)
            place = entry.shard, entry.member, entry.table_row
            self.lost[entry.id] = FailureRecord(entry.id, entry.path, "non-finite", message, *place)
            self._rows_lost += entry.frames
        return fits

    def path(self, number: int) -> Path:
        """The file whose presence says that a shard is finished."""
        return self.conversion.folder / f"part-{number:05d}{self.suffix}"

    def finish(self) -> Sequence[Path]:
        paths = self.write_last()
        failures = [failure.as_dict() for failure in (*self.conversion.source.failures(), *self.lost.values())]
        if failures:
            name = Layout(self.conversion.folder).failures.name
            write_atomically(self.conversion.folder / f"_{name}", json_lines(failures))
        self.failed, self.clips = len(self.lost), self.conversion.plan.total - len(self.lost)
        files = sorted(p.name for p in self.conversion.folder.iterdir() if p != self.marker.path and not is_lock(p))
        facts = {"failed": self.failed, "files": files}
        self.marker.write(self.conversion.identity, {**facts, **self._facts()}, complete=True)
        return paths

    def write_last(self) -> Sequence[Path]:
        """Write what is written once all shards are there. Returns the paths."""
        return ()


def is_lock(path: Path) -> bool:
    """Whether a file is that of a lock."""
    name = Layout.parse(path.name)
    return name is not None and name.kind in ("lock", "driver")


def cast(clip: SourceClip, features: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Features of another type, which holds them (`Target.holds`)."""
    y = to_dtype(features, dtype)
    assert y is not None, clip.entry.id
    return y


def cannot_hold(dtype: np.dtype[Any]) -> str:
    """What a failure says of features that a type cannot hold."""
    return f"features that {dtype.name} cannot hold"


def to_dtype(features: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
    """Features of another type, rounded as a run rounds; None where it cannot hold them."""
    if features.dtype == dtype:
        return features
    with np.errstate(over="ignore"):
        y = features.astype(dtype)
    return y if np.isfinite(y).all() else None
