"""The decoder of plain WAV files of 16 bits, as most corpora of short clips have them: a header of 44 bytes, samples.

libsndfile reads them too, to the same samples. But through soundfile a clip of a second takes three times as long, most
of it in Python. A file with more in it than format and samples, or with numbers that do not agree, is left to
libsndfile.
"""

from __future__ import annotations

import os
import struct
from io import FileIO

import numpy as np

from hlfeat.audio.clip import Clip
from hlfeat.audio.decoder import TruncatedError
from hlfeat.errors import ClipError

_HEADER = struct.Struct("<4sI8sIHHIIHH4sI")
_MOST_CHANNELS = 1024  # of libsndfile
_SCALE = np.float32(2.0**-15)


class PcmDecoder:
    """A plain WAV file; a Decoder. `open` makes one.

    Args:
        file: without a buffer; it is closed with the decoder.
        start: of the samples, in bytes.
    """

    name: str | None = None
    exact_seek = True
    shortfall: TruncatedError | None = None

    def __init__(self, file: FileIO, start: int, sample_rate: int, channels: int, length: int) -> None:
        self._file, self._start, self._position = file, start, 0
        self.sample_rate, self.channels = sample_rate, channels
        self.length: int | None = length

    @classmethod
    def open(cls, clip: Clip) -> PcmDecoder | None:
        """The decoder of a file or member; None if it is not a plain WAV file. Raises OSError."""
        decoder = None
        file = FileIO(clip.path)
        try:
            first = 0 if clip.span is None else clip.span.offset
            size = os.fstat(file.fileno()).st_size if clip.span is None else clip.span.size
            file.seek(first)
            numbers = _read_header(file.read(_HEADER.size), size)
            if numbers is not None:
                decoder = cls(file, first + _HEADER.size, *numbers)
        finally:
            if decoder is None:
                file.close()
        return decoder

    def read(self, samples: int) -> np.ndarray:
        assert self.length is not None
        width, size = 2 * self.channels, 0
        data = bytearray(max(0, min(samples, self.length - self._position)) * width)
        view = memoryview(data)
        try:
            self._file.seek(self._start + self._position * width)
            while size < len(view) and (more := self._file.readinto(view[size:])):
                size += more
        except OSError as e:
            raise ClipError("unreadable", e.strerror or str(e)) from e
        self._position += size // width
        block = np.frombuffer(data, "<i2", size // width * self.channels).reshape(-1, self.channels)
        scaled: np.ndarray = np.multiply(block, _SCALE, dtype=np.float32)
        return scaled

    def seek(self, sample: int) -> None:
        self._position = sample

    def check_end(self, samples: int) -> None:
        if self.length is not None and samples < self.length:
            message = f"the header promises {self.length} samples, {samples} could be read"
            raise TruncatedError(message, self.length / self.sample_rate)

    def close(self) -> None:
        self._file.close()


def _read_header(header: bytes, size: int) -> tuple[int, int, int] | None:
    """Sample rate, channels and samples of each channel; None if the file of `size` bytes is not a plain WAV file."""
    if len(header) < _HEADER.size or header[:4] != b"RIFF":
        return None
    _, _, wave, format_size, tag, channels, rate, _, block, bits, data, stated = _HEADER.unpack(header)
    if (wave, format_size, tag, bits, data) != (b"WAVEfmt ", 16, 1, 16, b"data"):
        return None
    if not (1 <= channels <= _MOST_CHANNELS and block == 2 * channels and 1 <= rate < 1 << 31):
        return None
    if stated != size - _HEADER.size or not stated or stated % block:
        return None
    return rate, channels, stated // block
