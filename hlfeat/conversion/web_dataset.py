"""WebDataset: tar archives with `KEY.npy` and `KEY.json` for each clip.

A reader takes a member's name up to the first dot of its last part for the key. So dots of an id are written as in a
URL (`a%2Ewav.npy`). Archives have no times and no owners: the same features make the same bytes.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from hlfeat.conversion.draft_file import DraftFile
from hlfeat.conversion.keys import key_of
from hlfeat.conversion.source import SourceClip
from hlfeat.conversion.target import Export, cast
from hlfeat.files import json_lines
from hlfeat.storage.layout import Layout

_DOT = re.compile(r"\.")
_OF_THE_SHARD = ("shard", "row", "crc32")  # keys of an index line that say nothing here


def web_key(id_: str) -> str:
    """The key of an id: no dots, and nothing that leads out of a folder or that a reader passes over.

    >>> web_key("speech/a.b.wav")
    'speech/a%2Eb%2Ewav'
    """
    key = key_of(id_, _DOT)
    if key.startswith(("/", "__")):
        key = f"%{ord(key[0]):02X}{key[1:]}"
    return f"{key[:-1]}%2F" if key.endswith("/") else key


class WebDataset(Export):
    """`shard-00000.tar`, ..."""

    suffix = ".tar"

    def path(self, number: int) -> Path:
        return Layout(self.conversion.folder).shard(number, self.suffix)

    def open(self, number: int) -> TarShard:
        return TarShard(self.path(number), self.conversion.dtype, self.conversion.source.shape)


class TarShard(DraftFile):
    """One archive; an OpenShard."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        super().__init__(path)
        self._dtype, self._row_shape = dtype, row_shape

    def add(self, clip: SourceClip) -> None:
        key, file = web_key(clip.entry.id), self.file
        header = _npy_header((clip.entry.frames, *self._row_shape), self._dtype)
        size = len(header) + clip.entry.frames * int(np.prod(self._row_shape)) * self._dtype.itemsize
        chunks = (cast(clip, chunk, self._dtype).data for chunk in clip.chunks())
        _write_member(file, f"{key}.npy", size, chain([header], chunks))
        line = {name: value for name, value in clip.line.items() if name not in _OF_THE_SHARD}
        text = json_lines([line])
        _write_member(file, f"{key}.json", len(text), [text])

    def commit(self) -> list[Path]:
        file = self.file
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
        return [self.publish()]


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _write_member(file: IO[bytes], name: str, size: int, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a member of a tar, of known size, piece by piece."""
    info = tarfile.TarInfo(name)
    info.size = size
    file.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
    for data in pieces:
        file.write(data)
    file.write(bytes(-size % tarfile.BLOCKSIZE))
