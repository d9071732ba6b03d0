"""Writing shards: features of many clips one after the other, an index line a clip, nothing half-made ever published.

A file is written beside its name, synced and renamed. A shard's data comes first and its index, the `.jsonl`, last: a
shard whose index is there is complete, whatever happened afterwards.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

TEMPORARY = ".tmp"

Record = dict[str, Any]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file beside its name, sync it, rename it into place, sync the folder."""
    with _published(path) as f:
        f.write(data)


@contextmanager
def _published(path: Path) -> Iterator[IO[bytes]]:
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb") as f:
            yield f
            _sync(f)
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(f: IO[bytes]) -> None:
    f.flush()
    os.fsync(f.fileno())


def publish(temporary: Path, path: Path) -> None:
    """Rename a synced file into place so that it outlives a crash."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def json_lines(records: Iterable[Record]) -> bytes:
    """One JSON object a line, ASCII, so that any file name survives."""
    return "".join(json.dumps(r) + "\n" for r in records).encode("ascii")


def shard_name(number: int) -> str:
    """shard-00000, shard-00001, ..."""
    return f"shard-{number:05d}"


def shard_number(name: str) -> int:
    """The number of shard-00000, also with an extension; -1 for what is no shard's name."""
    found = re.match(r"shard-(\d+)", name)
    return int(found[1]) if found else -1


class ShardWriter:
    """One shard, from its first clip to its commit; leaving the context without `commit` leaves no trace.

    `.npy` data goes to the disk clip by clip; `.pt`, a dict id -> tensor, is collected and written at commit.

    Args:
        folder: the output directory.
        number: of the shard.
        format: "npy" or "pt".
        dtype: of the features.
        channels, bands: of the features.
    """

    def __init__(self, folder: Path, number: int, format: str, dtype: np.dtype[Any], channels: int, bands: int) -> None:
        self.path = folder / f"{shard_name(number)}.{format}"
        self.index = folder / f"{shard_name(number)}.jsonl"
        self.format = format
        self.dtype = dtype
        self.frame_shape = (channels, bands)
        self.records: list[Record] = []
        self.rows = 0
        self._tensors: dict[str, np.ndarray] = {}
        self._temporary = self.path.with_name(self.path.name + TEMPORARY)
        self._file = open(self._temporary, "wb")
        if format == "npy":
            self._write_header()

    def _write_header(self) -> None:
        """Reserve or fill in the header: numpy pads it, so that its length does not depend on the number of rows."""
        self._file.seek(0)
        shape = (self.rows, *self.frame_shape)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, record: Record, features: np.ndarray) -> None:
        """Add a clip.

        Shape: features [frames, channels, bands] of the writer's dtype.
        """
        if features.shape[1:] != self.frame_shape or features.dtype != self.dtype:
            raise ValueError(f"expected {self.dtype} [*, {self.frame_shape}], got {features.dtype} {features.shape}")
        place = {"shard": self.path.name, "row": self.rows, "frames": len(features)}
        self.records.append({"id": record["id"], "path": record["path"], **place, **record})
        self.rows += len(features)
        if self.format == "npy":
            self._file.write(np.ascontiguousarray(features).data)
        else:
            self._tensors[record["id"]] = features

    def commit(self) -> Path:
        """Publish data, then index. Returns the path of the data."""
        if self.format == "npy":
            self._write_header()
        else:
            import torch

            buffer = io.BytesIO()  # torch reports a full disk as an error of its own
            torch.save({k: torch.from_numpy(v.copy()) for k, v in self._tensors.items()}, buffer)
            self._file.write(buffer.getbuffer())
        _sync(self._file)
        self._file.close()
        publish(self._temporary, self.path)
        write_atomically(self.index, json_lines(self.records))
        return self.path

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
