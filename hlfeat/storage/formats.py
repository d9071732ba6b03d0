"""Shard formats: how features are read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from zipfile import is_zipfile

import numpy as np

from hlfeat.errors import OUT_OF_FILES, OutputError
from hlfeat.storage.records import Record

PIECE = 1 << 21  # bytes of a shard that are read at once


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
                self._tensors = load_pt(path)
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


def load_pt(path: Path) -> dict[str, np.ndarray]:
    """Raises ValueError for anything but a dict id -> tensor."""
    import pickle

    import torch

    try:
        found = torch.load(path, weights_only=True, mmap=True)
        return {str(k): v.numpy() for k, v in found.items()}
    except (RuntimeError, EOFError, AttributeError, TypeError, pickle.UnpicklingError) as e:
        reason = str(e).strip().splitlines()
        raise ValueError(reason[0] if reason else repr(e)) from e


def check_shard(path: Path, rows: int) -> None:
    """Raises OutputError where a shard's data is not there, or not all of it. Does not read it."""
    try:
        if path.suffix == ".npy" and len(np.load(path, mmap_mode="r")) == rows:
            return
        if path.suffix == ".pt" and path.stat().st_size and is_zipfile(path):  # whose directory stands at its end
            return
    except Exception as e:  # numpy has no one error for a header that is none
        if isinstance(e, OSError) and e.errno in OUT_OF_FILES:
            raise
        raise OutputError(f"{path}: damaged: {e or type(e).__name__}", remedy="overwrite") from e
    raise OutputError(f"{path}: damaged: shorter or longer than its index says", remedy="overwrite")
