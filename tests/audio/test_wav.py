"""WAV, AIFF, AU and CAF: what the header counts is compared with what is there; sizes that are not known are no lie."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import Reader, decode
from hlfeat.audio.riff import scan_wav
from hlfeat.errors import ClipError
from tests import helpers
from tests.audio.media import MEDIA, encode

X = helpers.tone(1, 16000)
UNKNOWN = [0xFFFFFFFF, 0x7FFFF000, 0]


def wav(path: Path, subtype: str = "PCM_16", form: str = "WAV", rate: int = 16000) -> bytes:
    soundfile.write(path, X, rate, format=form, subtype=subtype)
    return path.read_bytes()


def with_size(data: bytes, size: int, riff: int | None = None) -> bytes:
    """A WAV file whose header counts so many bytes of samples."""
    start = data.index(b"data") + 4
    data = data[:start] + struct.pack("<I", size) + data[start + 4 :]
    return data if riff is None else data[:4] + struct.pack("<I", riff) + data[8:]


def samples(path: Path) -> np.ndarray:
    return decode(Clip("a", str(path))).samples[0]


def error(path: Path) -> ClipError:
    with pytest.raises(ClipError) as caught:
        samples(path)
    return caught.value


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
@pytest.mark.parametrize("size", UNKNOWN)
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_a_size_that_the_writer_did_not_know(tmp_path, subtype, size, form):
    data = wav(tmp_path / "a.wav", subtype, form)
    want = samples(tmp_path / "a.wav")
    for riff in (None, size):
        (tmp_path / "a.wav").write_bytes(with_size(data, size, riff))
        np.testing.assert_array_equal(samples(tmp_path / "a.wav"), want)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
@pytest.mark.parametrize("size", UNKNOWN)
def test_a_size_that_is_not_known_of_codecs_in_blocks(tmp_path, subtype, size):
    data = wav(tmp_path / "a.wav", subtype)
    want = samples(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(with_size(data, size))
    if size == 0:  # read or refused, never `empty`
        assert error(tmp_path / "a.wav").code == "truncated"
    else:
        np.testing.assert_array_equal(samples(tmp_path / "a.wav"), want)


def test_a_size_of_0_and_no_samples(tmp_path):
    data = wav(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(with_size(data[:44], 0))
    assert error(tmp_path / "a.wav").code == "empty"
    (tmp_path / "a.wav").write_bytes(with_size(data[:44], 0) + b"LIST\x04\0\0\0INFO")
    assert error(tmp_path / "a.wav").code == "empty"


def test_a_header_that_is_older_than_its_data(tmp_path):
    data = wav(tmp_path / "a.wav", "FLOAT")
    (tmp_path / "a.wav").write_bytes(with_size(data, 8000))
    assert error(tmp_path / "a.wav").code == "truncated"
    with Reader(Clip("a", str(tmp_path / "a.wav")), keep_truncated=True) as reader:
        kept = np.concatenate(list(reader.blocks()), axis=1)[0]
    assert reader.shortfall is not None
    np.testing.assert_array_equal(kept[: len(X)], X)


@pytest.mark.parametrize(
    "tail",
    [b"LIST\x04\0\0\0INFO", b"LIST\xff\0\0\0INFO", b"TAG" + b" " * 125, b"ID3\x04\0\0\0\0\0\0", bytes(4096), b"\0"],
    ids=["chunk", "a cut chunk", "ID3v1", "ID3v2", "zeros", "a byte"],
)
def test_what_follows_the_samples_is_no_matter(tmp_path, tail):
    data = wav(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(data + tail)
    assert len(samples(tmp_path / "a.wav")) == len(X)


def test_an_odd_size_without_its_pad_byte(tmp_path):
    soundfile.write(tmp_path / "a.wav", X[:15999], 16000, subtype="PCM_U8")
    data = (tmp_path / "a.wav").read_bytes()
    bare = data[: data.index(b"data") + 8 + 15999]
    for tail in (b"", b"\0", b"LIST\x04\0\0\0INFO", b"\0LIST\x04\0\0\0INFO"):
        (tmp_path / "a.wav").write_bytes(bare + tail)
        assert len(samples(tmp_path / "a.wav")) == 15999


@pytest.mark.parametrize("blocks", [26, 27])
def test_gsm_with_a_pad_byte(tmp_path, blocks):
    soundfile.write(tmp_path / "a.wav", helpers.tone(blocks * 320 / 8000, 8000), 8000, subtype="GSM610")
    data = (tmp_path / "a.wav").read_bytes()
    start = data.index(b"data") + 8
    exact = with_size(data[: start + blocks * 65], blocks * 65)
    (tmp_path / "a.wav").write_bytes(exact + bytes(blocks % 2))
    assert len(samples(tmp_path / "a.wav")) == blocks * 320
    (tmp_path / "a.wav").write_bytes(exact[:-40])
    assert error(tmp_path / "a.wav").code == "truncated"


def test_a_size_that_has_wrapped_beyond_4_gib(tmp_path):
    """Sizes have 32 bits: a sparse file of 4 GiB and a second, whose header counts the second."""
    path = tmp_path / "a.wav"
    data = wav(path)
    with open(path, "r+b") as file:
        file.seek((1 << 32) + 44)
        file.write(data[44:])
    with open(path, "rb") as file:
        scanned = scan_wav(file, path.stat().st_size)
    assert scanned is not None
    assert (scanned.length, scanned.end) == ("wrapped", path.stat().st_size)
    last = Clip("a", str(path), start=(1 << 31) / 16000)  # the second after the zeros
    np.testing.assert_allclose(decode(last).samples[0], X, atol=4e-5)
    with Reader(Clip("a", str(path))) as reader:
        assert reader.samples == (1 << 31) + 16000


def test_a_stale_header_of_more_than_4_gib(tmp_path):
    path = tmp_path / "a.wav"
    wav(path)
    with open(path, "r+b") as file:
        file.truncate((1 << 32) + 100_000)
        for position in (32_044, (1 << 32) + 90_000):
            file.seek(position)
            file.write(b"\xff" * 100)
    assert error(path).code == "truncated"


@pytest.mark.parametrize("cut", [1, 2, 1000, 31_990])
def test_a_file_that_was_cut(tmp_path, cut):
    data = wav(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(data[:-cut])
    assert error(tmp_path / "a.wav").code == "truncated"


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF"])
def test_other_headers_that_are_older_than_their_data(tmp_path, form):
    path = tmp_path / f"a.{form.lower()}"
    data = wav(path, form=form)
    if form == "AIFF":
        size = data.index(b"SSND") + 4
        patched = data[:size] + struct.pack(">I", 8008) + data[size + 4 :]
        frames = data.index(b"COMM") + 10
        patched = patched[:frames] + struct.pack(">I", 4000) + patched[frames + 4 :]
    elif form == "AU":
        patched = data[:8] + struct.pack(">I", 8000) + data[12:]
    else:
        size = data.index(b"data") + 4
        patched = data[:size] + struct.pack(">Q", 8004) + data[size + 8 :]
    path.write_bytes(patched)
    assert error(path).code == "truncated"


@pytest.mark.parametrize("size", [0, 0x7F000008])
def test_aiff_from_a_pipe(tmp_path, size):
    """ffmpeg's 0, and SoX's number."""
    data = wav(tmp_path / "a.aiff", form="AIFF")
    start = data.index(b"SSND") + 4
    (tmp_path / "a.aiff").write_bytes(data[:start] + struct.pack(">I", size) + data[start + 4 :])
    assert len(samples(tmp_path / "a.aiff")) == len(X)


def test_caf_from_a_pipe(tmp_path):
    data = wav(tmp_path / "a.caf", form="CAF")
    start = data.index(b"data") + 4
    (tmp_path / "a.caf").write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])
    assert len(samples(tmp_path / "a.caf")) == len(X)


def test_au_from_a_pipe(tmp_path):
    data = wav(tmp_path / "a.au", form="AU")
    (tmp_path / "a.au").write_bytes(data[:8] + b"\xff" * 4 + data[12:])
    assert len(samples(tmp_path / "a.au")) == len(X)


@pytest.mark.parametrize("name", ["WMA in WAV", "AC-3 in WAV"])
def test_codecs_that_libsndfile_does_not_read(tmp_path, name, monkeypatch):
    kind = MEDIA[name]
    encode(tmp_path / "a.wav", kind, np.stack([helpers.tone(1, kind.rate)] * 2, 1))
    assert len(samples(tmp_path / "a.wav")) > 0.9 * kind.rate
    monkeypatch.setattr("hlfeat.audio.pyav.is_installed", lambda: False)
    assert error(tmp_path / "a.wav").code == "unsupported"
    assert "pip install 'hlfeat[av]'" in str(error(tmp_path / "a.wav"))


def test_rf64(tmp_path):
    data = wav(tmp_path / "a.rf64", form="RF64")
    assert len(samples(tmp_path / "a.rf64")) == len(X)
    (tmp_path / "a.rf64").write_bytes(data[:-1000])
    assert error(tmp_path / "a.rf64").code == "truncated"
