"""Whether a file ends before its own structure does: what FFmpeg passes over when it reads to the end of what is there.

Formats: MP4 and its like (ISO 14496-12: boxes), Matroska (RFC 9559: elements), AVI and WAV (RIFF: chunks), CAF
(chunks), Ogg (RFC 3533: pages), WMA (Advanced Systems Format, 3.2: the file's size), WavPack (blocks) and MPEG
transport streams (ISO 13818-1: packets of 188 bytes, or 192).
"""

from __future__ import annotations

from typing import BinaryIO

from hlfeat.audio import matroska
from hlfeat.audio.decoder import TruncatedError
from hlfeat.audio.ogg import scan_ogg
from hlfeat.audio.riff import scan_wav
from hlfeat.errors import ClipError

_TS_SYNC, _TS_PACKETS = 0x47, ((0, 188), (4, 192))  # where a packet has its first byte, and bytes of one; of Blu-rays
_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})  # with which an MP4 or QuickTime file begins
_UNKNOWN = 0xFFFFFFFF  # the size of a chunk whose writer did not know it
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def check_structure(file: BinaryIO, size: int) -> bool:
    """Compare a file with what it says of itself.

    Returns: whether the duration that FFmpeg gives can be a promise; else it is a guess, as the file states none.

    Raises TruncatedError for a file that ends too early, ClipError "corrupt" for one with a gap.
    """
    file.seek(0)
    head = file.read(256)
    if head[4:8] in _BOXES:
        _check_boxes(file, size)
    elif head[:4] == matroska.MAGIC:
        scanned = matroska.scan_matroska(file, size)
        _check_size(scanned.end, size)
        return scanned.states_duration
    elif head[:16] == _ASF:
        return _check_asf(file, size)
    elif head[:4] == b"wvpk":
        _check_wavpack(file, size)
    elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        _check_riffs(file, size)
    elif head[:4] == b"RIFF":
        wav = scan_wav(file, size)
        if wav is not None and wav.length == "cut":
            there = wav.end - wav.start
            raise TruncatedError(f"the header promises {wav.stated} bytes of audio, {there} are there")
    elif head[:4] == b"caff":
        return _check_caf(file, size)
    elif head[:4] == b"OggS":
        ogg = scan_ogg(file, size)
        if ogg is not None and ogg.fault == "gap":
            raise ClipError("corrupt", "pages of the Ogg stream are missing or damaged")
        if ogg is not None and ogg.fault == "cut":
            raise TruncatedError("the file ends within a page of the Ogg stream")
    for sync, packet in _TS_PACKETS:
        if len(head) > sync + packet and head[sync] == head[sync + packet] == _TS_SYNC and size % packet:
            raise TruncatedError("the file ends within a packet of the transport stream")
    return True


def _check_size(promised: int, size: int) -> None:
    if promised > size:
        raise TruncatedError(f"the header promises {promised} bytes, {size} are there")


def _check_boxes(file: BinaryIO, size: int) -> None:
    position, names = 0, set()
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        names.add(header[4:8])
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # to the end of the file
            length = size - position
        if length < 8:
            return
        position += length
    if b"moov" not in names:
        raise TruncatedError("the file ends before its index (moov)")
    _check_size(position, size)


def _check_riffs(file: BinaryIO, size: int) -> None:
    """An AVI of more than a gigabyte has several RIFF chunks."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        if header[:4] != b"RIFF":
            return
        length = int.from_bytes(header[4:], "little")
        if length in (0, _UNKNOWN):
            return
        position += 8 + length
        _check_size(position, size)
        position += length % 2


def _check_caf(file: BinaryIO, size: int) -> bool:
    """Whether the header states a length: not if the samples go on to the end of the file, wherever that is."""
    position = 8
    while position + 12 <= size:
        file.seek(position)
        length = int.from_bytes(file.read(12)[4:], "big", signed=True)
        if length < 0:
            return False
        position += 12 + length
    _check_size(position, size)
    return True


def _check_asf(file: BinaryIO, size: int) -> bool:
    """Whether the header states a duration: not if the file was written as a broadcast."""
    file.seek(0)
    header = file.read(1 << 16)
    start = header.find(_ASF_PROPERTIES)
    properties = header[start : start + 104]
    if start < 0 or len(properties) < 104:
        return True
    is_broadcast = properties[88] & 1
    if not is_broadcast:
        _check_size(int.from_bytes(properties[40:48], "little"), size)
    return not is_broadcast


def _check_wavpack(file: BinaryIO, size: int) -> None:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        if header[:4] != b"wvpk":
            return
        position += 8 + int.from_bytes(header[4:], "little")
    _check_size(position, size)
