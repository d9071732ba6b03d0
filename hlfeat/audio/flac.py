"""FLAC: how many samples the last frame says that there are (RFC 9639), whatever the header counts.

A recorder that dies, or a program that appends, leaves a header that counts less than there is; libsndfile stops there.
"""

from __future__ import annotations

import re
from typing import BinaryIO

_TAILS = 1 << 15, 1 << 18  # bytes at the end that are searched: a frame of common block sizes, and of the longest
_SYNC = re.compile(rb"\xff[\xf8\xf9]")  # with which a frame begins
_BLOCKS = {1: 192, **{code: 144 << code for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}


def counted_samples(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Samples that the header counts, and those up to the end of the last frame; None if either is not known."""
    file.seek(0)
    head = file.read(42)
    if head[:4] != b"fLaC" or head[4] & 0x7F or len(head) < 42:
        return None
    stated = int.from_bytes(head[21:26], "big") & ((1 << 36) - 1)
    block = int.from_bytes(head[8:10], "big")
    for length in _TAILS if stated else ():
        start = max(42, size - length)
        file.seek(start)
        tail = file.read(size - start)
        for sync in reversed(list(_SYNC.finditer(tail))):
            there = _frame_end(tail[sync.start() : sync.start() + 16], block)
            if there is not None:
                return stated, there
    return None


def _frame_end(header: bytes, block: int) -> int | None:
    """The number of the sample after a frame, from its header; None if it is no header."""
    if len(header) < 8 or header[1] not in (0xF8, 0xF9) or header[3] & 1:
        return None
    number, length = _coded_number(header[4:11])
    position = 4 + length
    size_code, rate_code = header[2] >> 4, header[2] & 15
    size = _BLOCKS.get(size_code)
    if size_code in (6, 7):
        extra = size_code - 5
        size = int.from_bytes(header[position : position + extra], "big") + 1
        position += extra
    position += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if not length or size is None or rate_code == 15 or position >= len(header):
        return None
    if _crc8(header[:position]) != header[position]:
        return None
    is_variable = header[1] & 1
    return (number if is_variable else number * block) + size


def _coded_number(data: bytes) -> tuple[int, int]:
    """A number in the manner of UTF-8, and how many bytes it takes; 0 bytes if it is none."""
    ones = 8 - (data[0] ^ 0xFF).bit_length()
    if ones == 0:
        return data[0], 1
    if ones in (1, 8) or len(data) < ones:
        return 0, 0
    number = data[0] & (0x7F >> ones)
    for byte in data[1:ones]:
        if byte >> 6 != 2:
            return 0, 0
        number = number << 6 | byte & 0x3F
    return number, ones


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
