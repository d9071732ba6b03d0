"""Ogg: the streams of a file and whether their pages are all there (RFC 3533).

libsndfile reads the first stream of a file, and the first of streams that are chained one after the other; it passes
over pages that are damaged or missing without a word.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import BinaryIO

_CODECS = {
    b"\x01vorbis": "Vorbis",
    b"OpusHead": "Opus",
    b"\x7fFLAC": "FLAC",
    b"fLaC": "FLAC",
    b"Speex   ": "Speex",
    b"\x80theora": "Theora",
    b"fishead\0": "Skeleton",
}
_HEADER = 27  # bytes of a page before its table of segments
_LONGEST = _HEADER + 255 + 255 * 255  # bytes of a page
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class OggFile:
    """What the pages of a file say.

    Attributes:
        codecs: of the streams, in order.
        chained: whether a stream begins after the first pages of all streams.
        ended: whether the last page says that it ends the stream.
        fault: what is wrong with the pages, if anything: "cut" (the last one is not complete) or "gap" (pages are
            missing or damaged, or bytes are none).
    """

    codecs: tuple[str, ...]
    chained: bool
    ended: bool
    fault: str | None


def scan_ogg(file: BinaryIO, size: int) -> OggFile | None:
    """Walk the pages of a file of so many bytes; None if it does not begin with one."""
    codecs: list[str] = []
    following: dict[int, int] = {}  # the sequence number of each stream's next page
    position, chained, begun, ended = 0, False, False, False
    fault: str | None = None
    file.seek(0)
    if file.read(4) != b"OggS":
        return None
    while position < size:
        file.seek(position)
        page = file.read(_LONGEST)
        header = page[: _HEADER + 255]
        if header[:4] != b"OggS"[: len(header)]:
            if _find_page(file, position, size):
                fault = "gap"
            elif not ended:
                fault = "cut"
            break
        sizes = header[_HEADER : _HEADER + header[26]] if len(header) >= _HEADER else b""
        end = position + _HEADER + len(sizes) + sum(sizes)
        if len(header) < _HEADER or len(sizes) < header[26] or end > size:
            fault = fault or "cut"
            break
        if not _is_whole(page[: end - position]):
            fault = fault or "gap"
        serial, sequence = int.from_bytes(header[14:18], "little"), int.from_bytes(header[18:22], "little")
        ended = bool(header[5] & 4)
        if header[5] & 2:  # the first page of a stream
            chained = chained or begun
            packet = header[_HEADER + len(sizes) :]
            codecs.append(next((name for magic, name in _CODECS.items() if packet.startswith(magic)), "unknown"))
        else:
            begun = True
            if sequence != following.get(serial, sequence) and following.get(serial, 0) > 3:
                fault = fault or "gap"  # the first pages of a stream that was cut out of another may be renumbered
        following[serial] = sequence + 1
        position = end
    return OggFile(tuple(codecs), chained, ended, fault)


def _is_whole(page: bytes) -> bool:
    """Whether a page has its checksum: the CRC-32 of zlib, but for the order of bits, the start and the end at 0."""
    data = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2) == int.from_bytes(page[22:26], "little")


def _find_page(file: BinaryIO, position: int, size: int) -> bool:
    """Whether a page begins after this position."""
    file.seek(position)
    tail = b""
    while position < size and (data := file.read(1 << 20)):
        if b"OggS" in tail + data:
            return True
        tail = data[-3:]
        position += len(data)
    return False
