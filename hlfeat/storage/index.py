"""The clips of feature directories as one compact table: which rows of which shard are whose.

A million index lines as Python objects take gigabytes, and a forked worker copies them page by page as soon as it
counts references. So the rows of each clip, and the offset of its index line, are in arrays. All ids are in one bytes
object, with the order that sorts them. The rest of an index line is read when it is asked for.
"""

from __future__ import annotations

import bisect
import difflib
import json
import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.storage.index_entry import read_index_offsets
from hlfeat.storage.index_lines import IndexLines
from hlfeat.storage.layout import ShardFiles, indexed_shards
from hlfeat.storage.place import Place
from hlfeat.storage.remote_file import DataFile, RemoteFile

NEIGHBOURS = 2500  # ids on either side, in sorted order, among which the nearest are looked for
MOST_ROWS = 2**63  # what an int64 holds


class Index:
    """Where each clip is, numbered in the order of the folders and of their shards.

    Attributes:
        data: [shards], the file of features of each shard, on this machine or at a URL.
        is_remote: whether any of them is at a URL.
        shard, row, frames: int64 [clips]; a clip is `frames` rows of a shard, from `row`.
        duration: float64 [clips], seconds.

    Raises:
        OutputError: an index line that is damaged, an id that is there twice.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.data: list[DataFile] = []
        self._lines: list[IndexLines] = []  # of each shard
        columns = _Columns()
        for place in places:
            for files in indexed_shards(place.folder):
                data = columns.add_shard(files, len(self.data))
                if data is not None:
                    self.data.append(place.data(data))
                    self._lines.append(place.lines(files.index))
        self.is_remote = any(isinstance(file, RemoteFile) for file in self.data)
        ids = columns.ids
        self.shard, self.row, self.frames, self._offset = (
            np.array(column, np.int64) for column in (columns.shard, columns.row, columns.frames, columns.offset)
        )
        self.duration = np.array(columns.duration, np.float64)
        self.frames.flags.writeable = False
        self._ids = b"".join(ids)
        self._ends = np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)))
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self._order = np.array(order, np.int64)
        self._check_unique([ids[i] for i in order])

    def __len__(self) -> int:
        return len(self.row)

    def id(self, i: int) -> str:
        """The id of a clip."""
        return self._id(i).decode("utf-8", "surrogatepass")

    def find(self, id_: str) -> int | None:
        """The number of the clip of that id; None where there is none."""
        rank = self._rank(id_)
        if rank == len(self) or self._id(self._order[rank]) != _bytes(id_):
            return None
        return int(self._order[rank])

    def nearest(self, id_: str) -> list[str]:
        """The ids most like an unknown one; of very many ids, only those beside it in sorted order are compared."""
        rank = self._rank(id_)
        candidates = self._order[max(0, rank - NEIGHBOURS) : rank + NEIGHBOURS]
        return difflib.get_close_matches(id_, [self.id(i) for i in candidates], n=3)

    def record(self, i: int) -> dict[str, Any]:
        """The index line of a clip, read anew. Raises OutputError for an index that has changed since."""
        return next(self.records([i]))

    def records(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The index lines of clips, read anew. Raises OutputError as `record` does."""
        for shard, clips in groupby(numbers, self.shard.__getitem__):
            of_shard = list(clips)
            lines = self._lines[shard].at(map(int, self._offset[of_shard]))
            for i, line in zip(of_shard, lines, strict=True):
                yield self._record(line, i)

    def _record(self, line: bytes, i: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if record["id"] == self.id(i):
                return record  # type: ignore[no-any-return]
        except (ValueError, RecursionError, TypeError, KeyError):
            pass
        raise OutputError(f"{self._lines[self.shard[i]]}: has changed since it was opened")

    def _id(self, i: int) -> bytes:
        return self._ids[self._ends[i - 1] if i else 0 : self._ends[i]]

    def _rank(self, id_: str) -> int:
        """Where an id is, or would be, in sorted order."""
        return bisect.bisect_left(self._order, _bytes(id_), key=self._id)

    def _check_unique(self, in_order: Sequence[bytes]) -> None:
        for place, same in enumerate(map(operator.eq, in_order, in_order[1:])):
            if same:
                clips = sorted(self._order[place : place + 2].tolist())
                one, other = (self._lines[self.shard[i]] for i in clips)
                raise OutputError(f"the id {self.id(clips[0])!r} is there twice: in {one} and in {other}")


class _Columns:
    """The table while it is read, a list for each column."""

    def __init__(self) -> None:
        self.shard, self.row, self.frames, self.offset = (array("q") for _ in range(4))
        self.duration = array("d")
        self.ids: list[bytes] = []

    def add_shard(self, files: ShardFiles, shard: int) -> str | None:
        """Add the clips of a shard, which is the `shard`-th. Returns the name of its data; None if it has no clip."""
        first, name = len(self.row), None
        for offset, (id_, _, data, row, frames, duration) in read_index_offsets(files.index):
            if name is None and data in (path.name for path in files.data):
                name = data
            if data != name:
                raise _damaged(files, len(self.row) - first, files.expected_names, repr(data))
            if not 0 <= row <= row + frames < MOST_ROWS:
                raise _damaged(files, len(self.row) - first, "rows of the shard", f"row {row} and {frames} frames")
            self.row.append(row)
            self.frames.append(frames)
            self.offset.append(offset)
            self.duration.append(duration)
            self.ids.append(_bytes(id_))
        self.shard.extend([shard] * (len(self.row) - first))
        return name


def _bytes(id_: str) -> bytes:
    """An id may hold a file name's bytes that are no UTF-8: surrogates, in Python."""
    return id_.encode("utf-8", "surrogatepass")


def _damaged(files: ShardFiles, line: int, expected: str, got: str) -> OutputError:
    """The error for a line, from 0, of an index."""
    return OutputError(f"{files.index}: damaged: line {line + 1}: expected {expected}, got {got}")
