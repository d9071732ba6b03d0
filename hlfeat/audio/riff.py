"""WAV files (RIFF, RIFX, RF64): where the samples are, and whether the chunks account for every byte of the file.

A size of 0, 0xFFFFFFFF or 0x7FFFF000 is what programs write that do not know yet, or cannot go back to say: they write
to a pipe, or die. Sizes have 32 bits, and of a file of more than 4 GiB many programs write what is left of them.
Source: Multimedia Programming Interface and Data Specifications 1.0, chapter 2; EBU Tech 3306 (RF64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal

_UNKNOWN = frozenset({0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFF00, 0xFFFFFFDB})
_WRAP = 1 << 32
_ZEROS = bytes(1 << 20)
_SAMPLES = {1: "PCM", 3: "FLOAT", 6: "ALAW", 7: "ULAW"}  # format tags of samples of one size each
_GSM = 0x31
_READ = frozenset({*_SAMPLES, 2, 0x11, _GSM, 0x38, 0x40, 0x55})  # format tags that libsndfile reads
_NAMES = {
    0x14: "G.723 ADPCM", 0x22: "TrueSpeech", 0x40: "G.721 ADPCM", 0x42: "G.723.1", 0x45: "G.726 ADPCM",
    0x50: "MPEG layer II", 0x55: "MP3", 0x64: "G.726 ADPCM", 0x65: "G.722 ADPCM", 0x70: "Lernout & Hauspie CELP",
    0x83: "G.729", 0x92: "AC-3 (S/PDIF)", 0xFF: "AAC", 0x160: "WMA", 0x161: "WMA", 0x162: "WMA Pro", 0x163: "WMA",
    0x1600: "AAC", 0x2000: "AC-3", 0x2001: "DTS", 0xA109: "Speex", 0xF1AC: "FLAC",
}  # fmt: skip

Length = Literal["stated", "unknown", "wrapped", "stale", "cut"]


@dataclass(frozen=True)
class WavFile:
    """What the chunks of a file say.

    Attributes:
        tag: of the format; codec: its name; mpeg: whether it is MPEG audio.
        channels, sample_rate, block, bits: as the format chunk has them; `block`: bytes of one sample of all channels.
        big_endian: whether numbers are.
        start: of the samples, in bytes; end: of the samples that are there.
        stated: bytes of samples that the header counts.
        length: what that count is: "stated" (true), "unknown" (the writer did not know), "wrapped" (it lacks a multiple
            of 4 GiB), "stale" (audio, or bytes of no chunk, follow), "cut" (fewer bytes are there).
    """

    tag: int
    channels: int
    sample_rate: int
    block: int
    bits: int
    big_endian: bool
    start: int
    end: int
    stated: int
    length: Length

    @property
    def codec(self) -> str:
        return _NAMES.get(self.tag, f"format {self.tag:#06x}")

    @property
    def foreign(self) -> bool:
        """Whether it is one of the codecs that libsndfile does not read."""
        return self.tag not in _READ

    @property
    def mpeg(self) -> bool:
        return self.tag in (0x50, 0x55)

    @property
    def subtype(self) -> str | None:
        """libsndfile's name of the samples, where each has the same size; None for other codecs."""
        kind, bytes_each = _SAMPLES.get(self.tag), self.block // max(1, self.channels)
        if kind == "PCM":
            return {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}.get(bytes_each)
        if kind == "FLOAT":
            return {4: "FLOAT", 8: "DOUBLE"}.get(bytes_each)
        return kind

    @property
    def exact_samples(self) -> int | None:
        """Of each channel, where libsndfile's own count is wrong: it counts the pad byte of GSM as a block."""
        if self.tag == _GSM and self.block:
            return (self.end - self.start) // self.block * 320
        return None

    def seconds(self, size: int) -> float | None:
        """How long so many bytes last; None for codecs whose blocks say less than their bytes."""
        if self.subtype is None or not self.block or not self.sample_rate:
            return None
        return size / self.block / self.sample_rate


def scan_wav(file: BinaryIO, size: int) -> WavFile | None:
    """Read the chunks of a file of so many bytes; None if it is no WAV file, or has no format or no samples."""
    file.seek(0)
    riff = file.read(12)
    if riff[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or riff[8:12] != b"WAVE":
        return None
    order: Literal["big", "little"] = "big" if riff[:4] == b"RIFX" else "little"
    position, form, long_size = 12, b"", None
    while position + 8 <= size:
        name, stated = _chunk(file, position, order)
        if name == b"ds64" and riff[:4] in (b"RF64", b"BW64"):
            long_size = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt ":
            form = file.read(min(stated, 40))
        elif name == b"data":
            if len(form) < 16:
                return None
            if long_size is not None and stated == 0xFFFFFFFF:
                return _with_samples(file, form, order, position + 8, long_size, size, is_long=True)
            return _with_samples(file, form, order, position + 8, stated, size, is_long=False)
        position += 8 + stated + stated % 2
    return None


def _with_samples(
    file: BinaryIO, form: bytes, order: Literal["big", "little"], start: int, stated: int, size: int, is_long: bool
) -> WavFile:
    tag, channels, rate, block, bits = (
        int.from_bytes(form[a:b], order) for a, b in ((0, 2), (2, 4), (4, 8), (12, 14), (14, 16))
    )
    if tag == 0xFFFE and len(form) >= 26:  # extensible: the tag is in the sub-format's identifier
        tag = int.from_bytes(form[24:26], order)
    there, end = size - start, start + stated
    length: Length = "stated"
    wraps = (there - stated) // _WRAP * _WRAP
    unstated = stated in _UNKNOWN and stated > there and not is_long
    if unstated or (stated == 0 and there and not is_accounted_for(file, end, size, order)):
        end, length = size, "unknown"
    elif stated > there:
        end, length = size, "cut"
    elif wraps and not is_long and is_accounted_for(file, end + wraps, size, order):
        end, length = end + wraps, "wrapped"
    elif not is_accounted_for(file, end, size, order):
        end, length = size, "stale"
    return WavFile(tag, channels, rate, block, bits, order == "big", start, end, stated, length)


def _chunk(file: BinaryIO, position: int, order: Literal["big", "little"]) -> tuple[bytes, int]:
    file.seek(position)
    header = file.read(8)
    return header[:4], int.from_bytes(header[4:], order)


def is_accounted_for(file: BinaryIO, end: int, size: int, order: Literal["big", "little"]) -> bool:
    """Whether what follows the samples is chunks, tags or padding. Some programs leave out the pad byte."""
    return any(are_chunks(file, position, size, order) for position in {end + end % 2, end})


def are_chunks(file: BinaryIO, position: int, size: int, order: Literal["big", "little"]) -> bool:
    """Whether the bytes from a position to the end are chunks, or a tag."""
    while position < size:
        name, stated = _chunk(file, position, order)
        if size - position < 8 or name[:3] in (b"TAG", b"ID3") or name == b"APET":
            return True
        if name == bytes(4) and is_zero(file, position, size):
            return True
        if not all(0x20 <= byte < 0x7F for byte in name):
            return False
        if position + 8 + stated > size:  # the file ends within its last chunk, which holds no samples
            return name in (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"PAD ", b"junk", b"JUNK", b"iXML", b"axml")
        position += 8 + stated + stated % 2
    return True


def is_zero(file: BinaryIO, position: int, size: int) -> bool:
    """Whether there are only zeros from a position to the end."""
    file.seek(position)
    while position < size:
        data = file.read(min(len(_ZEROS), size - position))
        if not data or data != _ZEROS[: len(data)]:
            return False
        position += len(data)
    return True
