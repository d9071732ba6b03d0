"""What a shard format must be able to do: write, read and quickly check a shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.remote_file import DataFile, RemoteFile

PIECE = 1 << 21  # bytes of a shard that are read at once


class Rows(Protocol):
    """A clip's features: an array, or what reads one."""

    def __len__(self) -> int: ...

    def __getitem__(self, frames: slice) -> np.ndarray: ...


ClipLookup = Callable[[str, int, int], Rows]  # id, row, frames -> features, or fewer frames where some are missing


class FeatureWriter(ABC):
    """Writes the features of one shard into an open file."""

    @abstractmethod
    def write(self, id_: str, features: np.ndarray) -> None:
        """Add frames to a clip. The array is not kept. Shape: contiguous [n, *row_shape]."""

    @abstractmethod
    def drop(self, id_: str, rows: int) -> None:
        """Take the last clip back, which may be half-written; `rows` are left of the clips before it."""

    @abstractmethod
    def finish(self, rows: int) -> None:
        """Write what is still to be written, all clips together having `rows`."""


class FeatureReader(ABC):
    """Reads the features of one shard, clip by clip in bounded memory.

    Attributes:
        rows: of all clips together.
        ids: of the clips, where the format stores them.
        row_bytes: of one row.
    """

    def __init__(self, path: DataFile, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.row_shape, self.dtype = path, row_shape, dtype
        self.row_bytes = int(np.prod(row_shape)) * dtype.itemsize
        self.rows = 0
        self.ids: list[str] | None = None

    @abstractmethod
    def read(self, entry: IndexEntry) -> Iterator[np.ndarray]:
        """A clip's features, in chunks. Shape: [n, *row_shape] each.

        Raises OutputError where the shard does not have them.
        """

    @abstractmethod
    def close(self) -> None:
        """Give up the file."""

    @property
    def _piece_rows(self) -> int:
        return max(1, PIECE // self.row_bytes)


class FeatureFormat(ABC):
    """What a format must be able to do. `row_shape`: (channels, bands), or (dims,) of pooled features.

    Attributes:
        is_copied: whether a shard at a URL is copied here as a whole before a clip of it is read.
    """

    is_copied = False

    @abstractmethod
    def writer(self, file: IO[bytes], row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureWriter:
        """Writes a shard into an empty file."""

    @abstractmethod
    def reader(self, path: DataFile, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureReader:
        """Reads a shard without mapping it into memory.

        Raises ValueError for a file that is damaged, or whose features have another shape or type.
        """

    @abstractmethod
    def lookup(self, path: Path) -> ClipLookup:
        """Maps a shard into memory, to read clips in any order. Raises ValueError for a file that is damaged."""

    @abstractmethod
    def remote_lookup(self, file: RemoteFile) -> ClipLookup:
        """Reads clips of a shard at a URL in any order. Raises ValueError for a file that is damaged."""

    @abstractmethod
    def is_complete(self, path: DataFile, rows: int) -> bool:
        """Whether a file has so many rows, as far as can be seen without reading the features."""
