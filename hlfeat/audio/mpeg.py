"""MPEG audio (MP3, MP2): how many frames a stream really has, and whether they account for all of its bytes.

A stream has no length of its own. libsndfile takes the frame count of a Xing or Info tag, or guesses from the size and
the first frame's bit rate, and stops reading there. Frames name their own size, so that they can be counted without
being decoded: ISO/IEC 11172-3, section 2.4.2.3; the tags: LAME's "Mp3 Info Tag rev 1" specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

_WINDOW = 1 << 20  # bytes read at once
_LONGEST = 2881  # bytes of the longest frame
_LEAD = 1 << 16  # bytes before the first frame that may be anything: the end of a frame, or padding

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version: MPEG-1, 2, 2.5
_KBITS_1 = {
    3: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),  # layer I
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),  # layer II
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # layer III
}
_KBITS_2 = {
    3: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS_2[1] = _KBITS_2[2]
_SAME = 0xFFFE0C00  # bits of a header that do not change within a stream: sync, version, layer, sample rate


@dataclass(frozen=True)
class MpegStream:
    """What the frames of a stream say.

    Attributes:
        sample_rate: hertz; samples_per_frame: of each channel.
        frames: complete ones, without the frame of the tag.
        promised: frames that the tag counts; None without a tag or a count.
        count_offset: where the tag has its count, in bytes from the start of the file.
        end: where the last frame ends, in bytes.
        cut: whether an incomplete frame follows the last one.
        changes: whether frames of another sample rate, version or layer follow the last one.
        lost: seconds into the stream where bytes are neither frames nor tags; None where there are none.
    """

    sample_rate: int
    samples_per_frame: int
    frames: int
    promised: int | None
    count_offset: int | None
    end: int
    cut: bool
    changes: bool
    lost: float | None

    @property
    def samples(self) -> int:
        """Of all frames, with the encoder's delay and padding."""
        return self.frames * self.samples_per_frame


def scan_mpeg(file: BinaryIO, start: int, end: int) -> MpegStream | None:
    """Walk the frames between two positions of a file; None if there are none whose size is known."""
    return _Walk(file, start, end).run()


class _Walk:
    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self._window, self._window_start = b"", 0

    def _bytes(self, position: int, size: int) -> bytes:
        """Bytes from a position on, fewer at the end."""
        size = min(size, self._end - position)
        offset = position - self._window_start
        if offset < 0 or offset + size > len(self._window):
            self._file.seek(position)
            self._window, self._window_start = self._file.read(min(_WINDOW, self._end - position)), position
            offset = 0
        return self._window[offset : offset + size]

    def run(self) -> MpegStream | None:
        position = self._first_frame()
        if position is None:
            return None
        header = self._header(position)
        version, layer = header >> 19 & 3, header >> 17 & 3
        rate = _RATES[version][header >> 10 & 3]
        samples = {3: 384, 2: 1152, 1: 1152 if version == 3 else 576}[layer]
        sizes: dict[int, int] = {}  # of frames, by their headers
        promised, count_offset, has_tag = self._tag(position, header)
        same = header & _SAME
        frames, cut, changes, lost = 0, False, False, None
        while position < self._end:
            header = self._header(position)
            size = sizes.get(header)
            if size is None:
                size = sizes[header] = _frame_size(header) if header & _SAME == same else 0
            if size and position + size <= self._end:
                frames += 1
                position += size
                continue
            tag = self._tag_size(position)
            if tag:
                position += tag
                continue
            if size:
                cut = True
                break
            changes = self._next_frame(position, None, position + 1) is not None
            if changes:
                break
            following = self._next_frame(position, same)
            if lost is None and not self._is_padding(position, self._end if following is None else following):
                lost = frames * samples / rate
            if following is None:
                break
            position = following
        return MpegStream(rate, samples, frames - has_tag, promised, count_offset, position, cut, changes, lost)

    def _header(self, position: int) -> int:
        return int.from_bytes(self._bytes(position, 4).ljust(4, b"\0"), "big")

    def _first_frame(self) -> int | None:
        """Where the first frame begins: past tags, and past what is left of a frame that was cut through."""
        position = self._start
        while size := self._tag_size(position):
            position += size
        return self._next_frame(position, None, position + _LEAD)

    def _next_frame(self, position: int, same: int | None, limit: int | None = None) -> int | None:
        """The next position of a frame that another one, a tag or the end follows. `same`: see `_SAME`."""
        limit = self._end if limit is None else min(limit, self._end)
        while position < limit:
            data = self._bytes(position, _WINDOW // 2)
            offset = data.find(b"\xff")
            if offset < 0:
                position += max(1, len(data))
                continue
            position += offset
            header = self._header(position)
            size = _frame_size(header)
            if size and (same is None or header & _SAME == same) and position + size <= self._end:
                after = self._header(position + size) if position + size < self._end else header
                if after & _SAME == header & _SAME or self._tag_size(position + size):
                    return position
            position += 1
        return None

    def _tag_size(self, position: int) -> int:
        """The size of the tag at a position; 0 if there is none."""
        data = self._bytes(position, 32)
        if data[:3] == b"ID3" and len(data) >= 10:
            footer = 10 if data[5] & 0x10 else 0
            return 10 + footer + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])
        if data[:3] == b"3DI":
            return 10
        if data[:4] == b"TAG+":
            return 227
        if data[:3] == b"TAG":
            return 128
        if data[:8] == b"APETAGEX" and len(data) == 32:
            header = data[23] & 0x20  # else a footer, whose items came before it
            return 32 + (int.from_bytes(data[12:16], "little") if header else 0)
        if data[:11] == b"LYRICSBEGIN":
            text = self._bytes(position, 5120)
            stops = [text.find(word) for word in (b"LYRICSEND", b"LYRICS200")]
            return max(stops) + 9 if max(stops) > 0 else 0
        return 0

    def _tag(self, position: int, header: int) -> tuple[int | None, int | None, bool]:
        """The count of a Xing, Info or VBRI tag in the first frame, where it is, and whether there is a tag at all."""
        frame = self._bytes(position, min(_LONGEST, _frame_size(header)))
        side = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}
        after_side = 4 + side[header >> 19 & 3 == 3, header >> 6 & 3 == 3]
        for offset in (after_side, after_side + 2):  # with a checksum after the header
            if frame[offset : offset + 4] in (b"Xing", b"Info"):
                flags = int.from_bytes(frame[offset + 4 : offset + 8], "big")
                if not flags & 1:
                    return None, None, True
                count = offset + 8
                return int.from_bytes(frame[count : count + 4], "big"), position + count, True
        if frame[36:40] == b"VBRI":
            return int.from_bytes(frame[50:54], "big"), None, True
        return None, None, False

    def _is_padding(self, position: int, end: int) -> bool:
        """Whether there are only zeros."""
        while position < end:
            data = self._bytes(position, min(_WINDOW, end - position))
            if data.strip(b"\0"):
                return False
            position += max(1, len(data))
        return True


def _frame_size(header: int) -> int:
    """Bytes of the frame with this header; 0 if it is none, or does not say."""
    version, layer, bit_rate, rate = header >> 19 & 3, header >> 17 & 3, header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or layer == 0 or bit_rate in (0, 15) or rate == 3:
        return 0
    bits = 1000 * (_KBITS_1 if version == 3 else _KBITS_2)[layer][bit_rate]
    hertz, padding = _RATES[version][rate], header >> 9 & 1
    if layer == 3:
        return (12 * bits // hertz + padding) * 4
    return (144 if version == 3 or layer == 2 else 72) * bits // hertz + padding
