"""Bytes after the samples of a file that its structure does not account for: AIFF, AU and CAF.

A recorder that writes the header first, and dies, leaves a header that counts less audio than there is. libsndfile
reads what the header counts, and does not mention the rest. WAV has a module of its own: `riff`.
"""

from __future__ import annotations

from typing import BinaryIO

from hlfeat.audio.riff import are_chunks, is_accounted_for, is_zero

_UNKNOWN = 0xFFFFFFFF


def leftover_bytes(file: BinaryIO, size: int) -> int:
    """How many bytes of a file of so many follow the samples that its header counts, and are no chunk, tag or padding;
    0 for all other formats."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _after_aiff(file, size)
    if head[:4] == b".snd":
        start, stated = (int.from_bytes(head[i : i + 4], "big") for i in (4, 8))
        end = start + stated
        return 0 if stated == _UNKNOWN or is_zero(file, end, size) else max(0, size - end)
    if head[:4] == b"caff":
        return _after_caf(file, size)
    return 0


def _after_aiff(file: BinaryIO, size: int) -> int:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        stated = int.from_bytes(header[4:], "big")
        end = position + 8 + stated
        if header[:4] == b"SSND":
            return 0 if stated == 0 or is_accounted_for(file, end, size, "big") else max(0, size - end)
        position = end + stated % 2
    return 0


def _after_caf(file: BinaryIO, size: int) -> int:
    position, end = 8, None
    while position + 12 <= size:
        file.seek(position)
        header = file.read(12)
        stated = int.from_bytes(header[4:], "big", signed=True)
        if not all(0x20 <= byte < 0x7F for byte in header[:4]) or stated < 0:
            break
        position += 12 + stated
        end = position if header[:4] == b"data" else end
    if end is None or position >= size or is_zero(file, position, size) or are_chunks(file, position, size, "big"):
        return 0
    return size - position
