"""Plain WAV files: the same samples as libsndfile's, whatever else the header says; other files are left to it."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.audio.clip import Clip, Span
from hlfeat.audio.decoder import TruncatedError
from hlfeat.audio.pcm import _HEADER, PcmDecoder
from hlfeat.audio.reader import Reader, decode, open_decoder
from hlfeat.audio.sndfile import SndfileDecoder

U32 = st.integers(0, (1 << 32) - 1)


def wav(samples: np.ndarray, rate: int = 16000, riff: int | None = None, byte_rate: int | None = None) -> bytes:
    """A plain file of int16 [T, channels]."""
    data, channels = samples.astype("<i2").tobytes(), samples.shape[1]
    riff = 36 + len(data) if riff is None else riff
    byte_rate = 2 * channels * rate % (1 << 32) if byte_rate is None else byte_rate
    header = b"RIFF", riff, b"WAVEfmt ", 16, 1, channels, rate, byte_rate, 2 * channels, 16, b"data", len(data)
    return _HEADER.pack(*header) + data


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).integers(-32768, 32768, (samples, channels))
    x[0] = -32768
    return x


@given(
    samples=st.integers(1, 3000),
    channels=st.sampled_from([1, 1, 2, 3, 6, 1024]),
    rate=st.sampled_from([1, 8000, 16000, 44100, 384000, 655351]) | st.integers(1, (1 << 31) - 1),
    riff=st.sampled_from([None, 0, 36, 0xFFFFFFFF, 0x7FFFF000]) | U32,
    byte_rate=st.none() | U32,
    pieces=st.lists(st.integers(1, 2000), max_size=5),
    inside=st.booleans(),
)
def test_samples_are_those_of_libsndfile(tmp_path_factory, samples, channels, rate, riff, byte_rate, pieces, inside):
    path = tmp_path_factory.getbasetemp() / "plain.wav"
    data = wav(noise(samples, channels), rate, riff, byte_rate)
    path.write_bytes(b"before" + data + b"after" if inside else data)
    info = os.stat(path)
    span = Span("plain.wav", 6, len(data), (info.st_size, info.st_mtime_ns)) if inside else None
    clip = Clip("plain.wav", str(path), span=span)
    plain, other = open_decoder(clip), SndfileDecoder(clip)
    assert isinstance(plain, PcmDecoder)
    for name in ("name", "sample_rate", "channels", "length", "exact_seek", "shortfall"):
        assert getattr(plain, name) == getattr(other, name)
    start = samples // 3
    for size in (*pieces, samples + 1, None, samples // 2 + 1, 1):
        if size is None:
            plain.seek(start)
            other.seek(start)
            continue
        x, y = plain.read(size), other.read(size)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
    plain.check_end(samples)
    plain.close()
    other.close()


@pytest.mark.parametrize(
    ("start", "value"),
    [
        (0, b"RIFX"),
        (8, b"AVI "),
        (16, b"\x12"),  # a longer format
        (20, b"\x03"),  # floats
        (22, b"\0\0"),  # no channels
        (22, b"\2\0"),  # blocks of another size
        (24, b"\0\0\0\0"),  # no rate
        (34, b"\x08"),  # of 8 bits
        (36, b"LIST"),
        (40, b"\xff\xff\xff\xff"),  # the writer did not know
        (40, b"\0\0\0\0"),
        (40, b"\x10\0\0\0"),  # audio follows
        (40, b"\xff\xff\0\0"),  # cut
    ],
)
def test_everything_else_is_left_to_libsndfile(tmp_path, start, value):
    data = wav(noise(100))
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    decoder = PcmDecoder.open(Clip.of_file(path))
    assert decoder is not None
    decoder.close()
    for other in (data[:start] + value + data[start + len(value) :], data + b"LIST", data[:-1], data[:44], data[:20]):
        path.write_bytes(other)
        assert PcmDecoder.open(Clip.of_file(path)) is None


def test_a_segment_and_a_channel(tmp_path):
    x = noise(16000, 2)
    (tmp_path / "a.wav").write_bytes(wav(x))
    segment = decode(Clip("a", str(tmp_path / "a.wav"), start=0.25, end=0.5, channel=1))
    np.testing.assert_array_equal(segment.samples, x[4000:8000, 1:].T / np.float32(32768))
    whole, _ = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    np.testing.assert_array_equal(decode(Clip.of_file(tmp_path / "a.wav"), "each").samples, whole.T)


def test_a_file_that_is_cut_while_it_is_read_is_truncated(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(noise(1000)))
    with Reader(Clip.of_file(path)) as reader:
        os.truncate(path, 45)  # one byte of a sample
        with pytest.raises(TruncatedError, match="the header promises 1000 samples, 0 could be read"):
            list(reader.blocks())
