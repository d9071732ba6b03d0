"""Shard formats: how the features of a shard are written, read and quickly checked, a class for each format.

A new format is a class here and an entry of `FORMATS`, and its name in the configuration's `output.format`.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from zipfile import is_zipfile

import numpy as np

from hlfeat.errors import OUT_OF_FILES, OutputError
from hlfeat.storage.feature_format import ClipLookup, FeatureFormat, FeatureReader, FeatureWriter
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.remote_array import RemoteArray
from hlfeat.storage.remote_file import DataFile, RemoteFile, size_of
from hlfeat.storage.shared_calls import shared

COPIED_SHARDS = 2  # at URLs, of a format that has to be copied as a whole, which a process keeps


# --- .npy: all clips one after the other ----------------------------------------------------------------------------


class NpyFormat(FeatureFormat):
    """One array [rows, *row_shape], written piece by piece; any program that reads `.npy` can map it."""

    def writer(self, file: IO[bytes], row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureWriter:
        return _NpyWriter(file, row_shape, dtype)

    def reader(self, path: DataFile, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureReader:
        return _NpyReader(path, row_shape, dtype)

    def lookup(self, path: Path) -> ClipLookup:
        array = np.load(path, mmap_mode="r")
        return lambda id_, row, frames: array[row : row + frames]

    def remote_lookup(self, file: RemoteFile) -> ClipLookup:
        return RemoteArray(file).lookup

    def is_complete(self, path: DataFile, rows: int) -> bool:
        if isinstance(path, RemoteFile):
            return RemoteArray(path).shape[0] == rows
        return len(np.load(path, mmap_mode="r")) == rows


class _NpyWriter(FeatureWriter):
    def __init__(self, file: IO[bytes], row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._file, self._row_shape, self._dtype = file, row_shape, dtype
        self._row_bytes = int(np.prod(row_shape)) * dtype.itemsize
        self._write_header(0)
        self._data_start = file.tell()

    def _write_header(self, rows: int) -> None:
        """Reserve or fill in the header: numpy pads it, so that its length does not depend on the number of rows."""
        self._file.seek(0)
        shape = (rows, *self._row_shape)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, id_: str, features: np.ndarray) -> None:
        self._file.write(features.data)

    def drop(self, id_: str, rows: int) -> None:
        self._file.seek(self._data_start + rows * self._row_bytes)
        self._file.truncate()

    def finish(self, rows: int) -> None:
        self._write_header(rows)


class _NpyReader(FeatureReader):
    def __init__(self, path: DataFile, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(path, row_shape, dtype)
        self._file = path.open("rb")
        try:
            self.rows = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> int:
        if np.lib.format.read_magic(self._file) != (1, 0):
            raise ValueError("expected version 1.0 of .npy")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(self._file)
        if shape[1:] != self.row_shape or dtype != self.dtype or fortran:
            expected = ", ".join(map(str, self.row_shape))
            raise ValueError(f"expected [rows, {expected}] {self.dtype}, got {list(shape)} {dtype}")
        self._data_start = self._file.tell()
        size, expected_size = size_of(self.path) - self._data_start, shape[0] * self.row_bytes
        if size != expected_size:
            raise ValueError(f"expected {expected_size} bytes for {shape[0]} rows, got {size}")
        return int(shape[0])

    def read(self, entry: IndexEntry) -> Iterator[np.ndarray]:
        row, frames = entry.row, entry.frames
        if not 0 <= row <= row + frames <= self.rows:
            raise OutputError(f"{self.path}: damaged: shorter than its index says")
        self._file.seek(self._data_start + row * self.row_bytes)
        while frames:
            piece = np.empty((min(self._piece_rows, frames), *self.row_shape), self.dtype)
            if self._file.readinto(piece.data) != piece.nbytes:
                raise OutputError(f"{self.path}: damaged: shorter than its index says")
            yield piece
            frames -= len(piece)

    def close(self) -> None:
        self._file.close()


# --- Formats that hold an array for each id --------------------------------------------------------------------------


class ClipsFormat(FeatureFormat):
    """A shard is id -> features [frames, *row_shape]. Features are collected, and written at the end."""

    is_copied = True

    @abstractmethod
    def save(self, file: IO[bytes], clips: Mapping[str, np.ndarray]) -> None:
        """Write all clips of a shard, in order."""

    @abstractmethod
    def load(self, path: Path) -> dict[str, np.ndarray]:
        """The clips of a shard, mapped into memory where the format allows. Raises ValueError if it is damaged."""

    def writer(self, file: IO[bytes], row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureWriter:
        return _ClipsWriter(file, self.save)

    def reader(self, path: DataFile, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureReader:
        clips = _clips_of_copy(self, path) if isinstance(path, RemoteFile) else self.load(path)
        return _ClipsReader(path, row_shape, dtype, clips)

    def lookup(self, path: Path) -> ClipLookup:
        return _lookup_in(self.load(path))

    def remote_lookup(self, file: RemoteFile) -> ClipLookup:
        _clips_of_copy(self, file)  # raises where it is damaged
        return lambda id_, row, frames: _lookup_in(_clips_of_copy(self, file))(id_, row, frames)


def _lookup_in(clips: Mapping[str, np.ndarray]) -> ClipLookup:
    missing = np.empty(0)
    return lambda id_, row, frames: clips.get(id_, missing)


@shared
@lru_cache(COPIED_SHARDS)
def _clips_of_copy(form: ClipsFormat, file: RemoteFile) -> dict[str, np.ndarray]:
    """The clips of a shard at a URL, which is copied to this machine as a whole. Raises OutputError."""
    try:
        with file.copied() as path:
            return form.load(path)
    except ValueError as e:
        raise OutputError(f"{file}: damaged: {e}") from e
    except OSError as e:
        raise OutputError(f"{file}: cannot be copied to this machine: {e.strerror}") from e


class _ClipsWriter(FeatureWriter):
    def __init__(self, file: IO[bytes], save: Callable[[IO[bytes], Mapping[str, np.ndarray]], None]) -> None:
        self._file, self._save = file, save
        self._clips: dict[str, list[np.ndarray]] = {}

    def write(self, id_: str, features: np.ndarray) -> None:
        self._clips.setdefault(id_, []).append(features.copy())

    def drop(self, id_: str, rows: int) -> None:
        self._clips.pop(id_, None)

    def finish(self, rows: int) -> None:
        self._save(self._file, {id_: np.concatenate(chunks) for id_, chunks in self._clips.items()})


class _ClipsReader(FeatureReader):
    def __init__(
        self, path: DataFile, row_shape: tuple[int, ...], dtype: np.dtype[Any], clips: dict[str, np.ndarray]
    ) -> None:
        super().__init__(path, row_shape, dtype)
        self._clips = clips
        self.ids, self.rows = list(clips), sum(map(len, clips.values()))

    def read(self, entry: IndexEntry) -> Iterator[np.ndarray]:
        clip = self._clips.get(entry.id)
        if clip is None:
            raise OutputError(f"{self.path}: damaged: without {entry.id!r}")
        shape = (entry.frames, *self.row_shape)
        if clip.shape != shape or clip.dtype != self.dtype:
            raise OutputError(
                f"{self.path}: damaged: expected {list(shape)} {self.dtype} of {entry.id!r}, "
                f"got {list(clip.shape)} {clip.dtype}"
            )
        for start in range(0, entry.frames, self._piece_rows):
            yield clip[start : start + self._piece_rows]

    def close(self) -> None:
        self._clips = {}  # which unmaps them


class PtFormat(ClipsFormat):
    """A dict id -> tensor, as torch saves it; torch loads it with weights_only=True."""

    def save(self, file: IO[bytes], clips: Mapping[str, np.ndarray]) -> None:
        import torch

        buffer = io.BytesIO()  # torch reports a full disk as an error of its own
        torch.save({id_: torch.from_numpy(features) for id_, features in clips.items()}, buffer)
        file.write(buffer.getbuffer())

    def load(self, path: Path) -> dict[str, np.ndarray]:
        import pickle

        import torch

        try:
            tensors = torch.load(path, weights_only=True, mmap=True)
            return {str(id_): tensor.numpy() for id_, tensor in tensors.items()}
        except (RuntimeError, EOFError, AttributeError, TypeError, pickle.UnpicklingError) as e:
            reason = str(e).strip().splitlines()
            raise ValueError(reason[0] if reason else repr(e)) from e

    def is_complete(self, path: DataFile, rows: int) -> bool:
        with path.open("rb") as f:
            return size_of(path) > 0 and is_zipfile(f)  # whose directory is at its end


FORMATS: dict[str, FeatureFormat] = {"npy": NpyFormat(), "pt": PtFormat()}


# --- Any shard, by the suffix of its path ----------------------------------------------------------------------------


def open_reader(path: DataFile, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureReader:
    """A reader of a shard. Raises OutputError where it cannot be read, or has features of another shape or type."""
    try:
        return _format_of(path).reader(path, row_shape, dtype)
    except OSError as e:
        raise OutputError(f"{path}: cannot be read: {e.strerror}") from e
    except (MemoryError, OutputError):
        raise
    except Exception as e:  # numpy and torch have no one error for what is damaged
        raise OutputError(f"{path}: damaged: {' '.join(str(e).split()) or type(e).__name__}") from e


def open_lookup(path: DataFile) -> ClipLookup:
    """The clips of a shard that is mapped into memory, or at a URL. Raises OutputError where it cannot be read."""
    try:
        form = _format_of(path)
        return form.remote_lookup(path) if isinstance(path, RemoteFile) else form.lookup(path)
    except (OSError, ValueError, EOFError) as e:
        reason = str(e).strip().splitlines()
        raise OutputError(f"{path}: cannot be read: {reason[0] if reason else repr(e)}") from e


def is_copied(path: DataFile) -> bool:
    """Whether the shard is at a URL, and is copied here as a whole to be read."""
    return isinstance(path, RemoteFile) and _format_of(path).is_copied


def check_shard(path: DataFile, rows: int) -> None:
    """Raises OutputError where a shard's data is missing or not complete. Does not read the features."""
    form = FORMATS.get(path.suffix.removeprefix("."))
    try:
        complete = form is not None and form.is_complete(path, rows)
    except OutputError:
        raise
    except Exception as e:  # numpy has no one error for a header that is none
        if isinstance(e, OSError) and e.errno in OUT_OF_FILES:
            raise
        raise OutputError(f"{path}: damaged: {e or type(e).__name__}", remedy="repair") from e
    if not complete:
        raise OutputError(f"{path}: damaged: shorter or longer than its index says", remedy="repair")


def _format_of(path: DataFile) -> FeatureFormat:
    return FORMATS[path.suffix.removeprefix(".")]
