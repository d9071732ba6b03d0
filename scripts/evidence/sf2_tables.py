"""The tables of a SoundFont 2 file (.sf2) as they stand in it: chunks of RIFF, and in them records of a fixed layout.

Numbers of sections are those of the SoundFont Technical Specification, version 2.04.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

Record = tuple[Any, ...]

RECORDS = {  # sections 7.2 to 7.10: the tables that are read, each closed by one record that ends the last entry
    "phdr": "<20s3H12x",  # name, program, bank, first zone; library, genre, morphology
    "pbag": "<HH",  # first generator, first modulator
    "pgen": "<HH",  # generator, amount
    "inst": "<20sH",  # name, first zone
    "ibag": "<HH",
    "igen": "<HH",
    "shdr": "<20s5IBbHH",  # name, start, end, loop's start and end, rate, root key, correction, linked sample, type
}


class DamagedError(Exception):
    """What is wrong with a file, without its name."""


def find_chunks(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Name -> (offset of its data, bytes) of all chunks in the lists of the file; sections 3 and 4."""
    length = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise DamagedError("expected a SoundFont 2 file (RIFF of the form sfbk), found something else")
    end = 8 + int(struct.unpack_from("<I", head, 4)[0])
    if end > length:
        raise DamagedError(f"truncated: expected {end} bytes, found {length}")
    chunks = {}
    for outer, start, size in _siblings(file, 12, end):
        if outer == "LIST":
            for name, inner_start, inner_size in _siblings(file, start + 4, start + size):
                chunks[name] = (inner_start, inner_size)
    return chunks


def _siblings(file: BinaryIO, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset of the data and bytes of the chunks that follow each other from `start` to `end`."""
    while start + 8 <= end:
        file.seek(start)
        name, size = struct.unpack("<4sI", file.read(8))
        text = name.decode("latin-1")
        start += 8
        if start + size > end:
            raise DamagedError(f"chunk {text!a} at byte {start - 8}: expected {size} bytes, found {end - start}")
        yield text, start, size
        start += size + size % 2  # chunks begin at even bytes


def read_records(file: BinaryIO, name: str, start: int, size: int) -> list[Record]:
    """The records of a table, names decoded."""
    layout = struct.Struct(RECORDS[name])
    if size % layout.size or size < layout.size:
        raise DamagedError(f"chunk {name}: expected records of {layout.size} bytes, found {size} bytes")
    file.seek(start)
    records = layout.iter_unpack(file.read(size))
    return [tuple(_text(v) if isinstance(v, bytes) else v for v in record) for record in records]


def _text(name: bytes) -> str:
    """Up to 20 characters, ended by NUL if shorter."""
    return name.split(b"\0")[0].decode("latin-1").strip()
