"""Matroska and WebM: whether the elements of a file are all there, and whether it states how long it is (RFC 9559).

An element is an id, a size and contents (EBML, RFC 8794). Programs that write to a pipe leave the sizes of the segment
and of its clusters unknown, and state no duration; FFmpeg then estimates one from bit rates, which is no promise.
"""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT, _INFO, _CLUSTER, _DURATION = 0x18538067, 0x1549A966, 0x1F43B675, 0x4489
_MASTERS = frozenset({_SEGMENT, _INFO})  # whose contents are looked at


class MatroskaFile(NamedTuple):
    """What the elements of a file say.

    Attributes:
        end: where the last element ends, in bytes; beyond the file's size if the file was cut short.
        states_duration: whether it states how long it is.
    """

    end: int
    states_duration: bool


def scan_matroska(file: BinaryIO, size: int) -> MatroskaFile:
    """Walk the elements of a file of so many bytes."""
    position = end = 0
    states_duration = False
    while position < size:
        file.seek(position)
        header = file.read(12)
        name, name_size = _number(header, with_marker=True)
        length, length_size = _number(header[name_size:], with_marker=False)
        if not name_size:  # not an element: FFmpeg finds the next one, or does not
            return MatroskaFile(end, states_duration)
        if not length_size:  # within the last few bytes
            return MatroskaFile(max(end, size + 1 if len(header) < 12 else end), states_duration)
        states_duration = states_duration or name == _DURATION
        position += name_size + length_size
        is_unknown = length == (1 << 7 * length_size) - 1
        if not is_unknown:
            end = max(end, position + length)
        if name not in _MASTERS and not is_unknown:
            position += length
    return MatroskaFile(end, states_duration)


def _number(data: bytes, with_marker: bool) -> tuple[int, int]:
    """A number of variable size at the start of some bytes, and how many bytes it takes; 0 bytes if there is none.

    The position of the first bit that is set says how many bytes. Ids are written with that bit.
    """
    if not data or not data[0]:
        return 0, 0
    size = 9 - data[0].bit_length()
    if len(data) < size:
        return 0, 0
    number = int.from_bytes(data[:size], "big")
    return (number if with_marker else number & ((1 << 7 * size) - 1)), size
