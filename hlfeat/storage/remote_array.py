"""A `.npy` file at a URL: its header is read once, and then the rows that are asked for."""

from __future__ import annotations

import io

import numpy as np

from hlfeat.storage.remote_file import RemoteFile

_HEADER = 4096  # bytes in which the header is: numpy's is 128 for features


class RemoteArray:
    """An array [rows, ...] whose header has been read. Raises OutputError, and ValueError for a file that is damaged.

    Attributes:
        shape, dtype: of the array.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._file = file.opened()
        size = self._file.size or 0
        header = io.BytesIO(self._file.read(0, min(_HEADER, size)))
        version = np.lib.format.read_magic(header)
        if version != (1, 0):
            raise ValueError("expected version 1.0 of .npy")
        self.shape, fortran, self.dtype = np.lib.format.read_array_header_1_0(header)
        if fortran or self.dtype.hasobject or not self.shape:
            raise ValueError("expected rows of numbers, one after the other")
        self._start = header.tell()
        self._row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        if self._start + self.shape[0] * self._row_bytes != size:
            raise ValueError(
                f"expected {self.shape[0]} rows of {self._row_bytes} bytes, got {size - self._start} bytes"
            )

    def lookup(self, id_: str, row: int, frames: int) -> RemoteRows:
        """The rows of a clip, as far as they are there."""
        return RemoteRows(self, int(row), int(max(0, min(frames, self.shape[0] - row))))

    def read(self, row: int, rows: int) -> np.ndarray:
        """Some rows, in one request. Shape: -> [rows, ...]."""
        start = self._start + row * self._row_bytes
        data = self._file.read(start, start + rows * self._row_bytes) if rows else b""
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])


class RemoteRows:
    """Rows of an array at a URL: `rows[2:5]` reads three of them."""

    def __init__(self, array: RemoteArray, row: int, frames: int) -> None:
        self._array, self._row, self._frames = array, row, frames

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, frames: slice) -> np.ndarray:
        start, stop, _ = frames.indices(self._frames)
        return self._array.read(self._row + start, max(0, stop - start))
