"""Writing shards: features of many clips one after the other, an index line a clip, nothing half-made ever published.

A file is written beside its name, synced and renamed. A shard's data comes first and its index, the `.jsonl`, last: a
shard whose index is there is complete, whatever happened afterwards.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hlfeat.files import TEMPORARY, json_lines, publish, sync, write_atomically
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.records import IndexEntry


class ShardWriter:
    """One shard, from its first clip to its commit; leaving the context without `commit` leaves no trace.

    Where only the index and the statistics are wanted, `keep` is false: data goes nowhere.

    `.npy` data goes to the disk piece by piece; `.pt`, a dict id -> tensor, is collected and written at commit.

    Args:
        files: of the shard.
        format: "npy" or "pt".
        dtype: of the features.
        frame_shape: of a row of the features: channels and bands, or dims where they are pooled.
    """

    def __init__(
        self, files: ShardFiles, format: str, dtype: np.dtype[Any], *frame_shape: int, keep: bool = True
    ) -> None:
        self.files = files
        self.path = files.layout.shard(files.number, f".{format}")
        self.format = format if keep else "none"
        self.dtype = dtype
        self.frame_shape = frame_shape
        self.entries: list[IndexEntry] = []
        self.rows = 0
        self._tensors: dict[str, np.ndarray] = {}
        self._temporary = self.path.with_name(self.path.name + TEMPORARY)
        self._file = open(self._temporary if keep else os.devnull, "wb")
        if self.format == "npy":
            self._write_header()
        self._data_start = self._file.tell()

    def _write_header(self) -> None:
        """Reserve or fill in the header: numpy pads it, so that its length does not depend on the number of rows."""
        self._file.seek(0)
        shape = (self.rows, *self.frame_shape)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, entry: IndexEntry, pieces: Iterable[np.ndarray]) -> None:
        """Add a clip; its place in the shard and its checksum are filled in.

        What `pieces` raises leaves the shard as it was before.

        Shape: pieces [n, *frame_shape] each, of the writer's dtype.
        """
        row, checksum = self.rows, 0
        try:
            held = []
            for piece in pieces:
                if piece.shape[1:] != self.frame_shape or piece.dtype != self.dtype:
                    raise ValueError(f"expected {self.dtype} [*, {self.frame_shape}], got {piece.dtype} {piece.shape}")
                data = np.ascontiguousarray(piece)
                checksum = zlib.crc32(data.data, checksum)
                self.rows += len(data)
                if self.format == "npy":
                    self._file.write(data.data)
                elif self.format == "pt":
                    held.append(data)
        except BaseException:
            self._cut(row)
            raise
        if self.format == "pt":
            self._tensors[entry.id] = np.concatenate(held)
        self.entries.append(entry._replace(shard=self.path.name, row=row, frames=self.rows - row, crc32=checksum))

    def drop(self, clips: int) -> None:
        """Take back the last so many clips."""
        for _ in range(clips):
            entry = self.entries.pop()
            self._tensors.pop(entry.id, None)
            self._cut(entry.row)

    def _cut(self, rows: int) -> None:
        self.rows = rows
        if self.format == "npy":
            self._file.seek(self._data_start + rows * int(np.prod(self.frame_shape)) * self.dtype.itemsize)
            self._file.truncate()

    def commit(self, statistics: bytes | None = None) -> Path:
        """Publish data, then its statistics, then the index. Returns the path of the data."""
        if self.format != "none":
            self._publish()
        if statistics is not None:
            write_atomically(self.files.statistics, statistics)
        write_atomically(self.files.index, json_lines(entry.as_dict() for entry in self.entries))
        return self.path

    def _publish(self) -> None:
        if self.format == "npy":
            self._write_header()
        else:
            import torch

            buffer = io.BytesIO()  # torch reports a full disk as an error of its own
            torch.save({k: torch.from_numpy(v.copy()) for k, v in self._tensors.items()}, buffer)
            self._file.write(buffer.getbuffer())
        sync(self._file)
        self._file.close()
        publish(self._temporary, self.path)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:  # a full disk: what could not be flushed is thrown away next
            pass
        finally:
            self._temporary.unlink(missing_ok=True)
