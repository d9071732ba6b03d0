"""Decoding: all samples of a file are read, and a file that cannot be used has a reason."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hlfeat.audio import reader
from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import decode
from hlfeat.errors import ClipError
from tests import helpers


def read(path: Path, channels: str | int = "mix") -> reader.Waveform:
    return decode(Clip(path.name, str(path)), channels)


@pytest.mark.parametrize(("ext", "fmt", "sub"), helpers.KINDS)
def test_every_format(tmp_path, ext, fmt, sub):
    x = helpers.tone(1.3, 48000)
    path = tmp_path / f"a.{ext}"
    soundfile.write(path, x, 48000, format=fmt, subtype=sub)
    wave = read(path)
    assert wave.samples.shape == (1, len(x))
    assert (wave.sample_rate, wave.duration) == (48000, len(x) / 48000)
    exact = {"PCM_16": 4e-5, "PCM_24": 2e-7, "FLOAT": 0}.get(sub)
    if exact is None:  # a lossy codec keeps the tone, not the samples
        assert np.corrcoef(wave.samples[0], x)[0, 1] > 0.95
    else:
        np.testing.assert_allclose(wave.samples[0], x, atol=exact)


def test_channel_policies(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK_SAMPLES", 50)  # many blocks
    x = np.random.default_rng(0).uniform(-1, 1, (1234, 5)).astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, x, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read(path, "mix").samples[0], x.mean(1), atol=1e-7)
    np.testing.assert_array_equal(read(path, "first").samples, x.T[:1])
    np.testing.assert_array_equal(read(path, 3).samples, x.T[3:4])
    np.testing.assert_array_equal(read(path, "each").samples, x.T)
    with pytest.raises(ClipError, match=r"expected a channel 5 \(counting from 0\), got 5") as caught:
        read(path, 5)
    assert caught.value.code == "bad-channel"


def test_every_broken_file_has_its_code(tmp_path):
    codes = helpers.broken_clips(tmp_path)
    codes.pop("loud.wav")  # can be read: its features are what fails
    codes_read = {}
    for name in codes:
        with pytest.raises(ClipError) as caught:
            read(tmp_path / name)
        codes_read[name] = caught.value.code
        assert "\n" not in str(caught.value)
    assert codes_read == codes


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")  # reading it would wait for ever
    (tmp_path / "folder.wav").mkdir()
    for name, code in (("pipe.wav", "not-audio"), ("folder.wav", "unreadable")):
        with pytest.raises(ClipError) as caught:
            read(tmp_path / name)
        assert caught.value.code == code
    with pytest.raises(ClipError) as caught:
        read(tmp_path / "file.wav" / "x.wav")
    assert caught.value.code == "missing"
    with pytest.raises(ClipError) as caught:
        decode(Clip("x", "nul\0.wav"))
    assert caught.value.code == "missing"
    (tmp_path / "a.raw").write_bytes(bytes(100))
    with pytest.raises(ClipError) as caught:
        read(tmp_path / "a.raw")
    assert caught.value.code == "unsupported"


def test_a_name_that_is_no_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav")
    soundfile.write(path, helpers.tone(0.1, 8000), 8000)
    assert decode(Clip("x", os.fsdecode(path))).samples.shape == (1, 800)


def test_reading_can_be_cancelled(tmp_path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(1, 8000), 8000)
    with pytest.raises(ClipError) as caught:
        decode(Clip("a", str(tmp_path / "a.wav")), "mix", lambda: True)
    assert caught.value.code == "cancelled"


def test_a_nist_header_that_promises_more(tmp_path):
    path = tmp_path / "a.sph"
    soundfile.write(path, helpers.tone(1, 8000), 8000, format="NIST", subtype="PCM_16")
    assert read(path).samples.shape == (1, 8000)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ClipError, match="promises 8000 samples") as caught:
        read(path)
    assert caught.value.code == "truncated"


@pytest.mark.parametrize("form", ["AVR", "CAF", "MAT4", "MAT5", "NIST", "SDS", "SVX", "VOC", "W64"])
def test_headers_that_promise_more(tmp_path, form):
    path = tmp_path / f"a.{form.lower()}"
    soundfile.write(path, helpers.tone(1, 8000), 8000, format=form, subtype="PCM_16")
    data = path.read_bytes()
    assert read(path).samples.shape == (1, 8000)
    for end in (-300, -9000):
        path.write_bytes(data[:end])
        with pytest.raises(ClipError) as caught:
            read(path)
        assert caught.value.code in ("truncated", "corrupt")


@pytest.mark.parametrize("tail", [b"TAG" + b" " * 125, bytes(4096)])
def test_what_follows_the_audio_is_no_matter(tmp_path, tail):
    """An ID3v1 tag, padding."""
    for ext in ("flac", "mp3", "wav"):
        path = tmp_path / f"a.{ext}"
        soundfile.write(path, helpers.tone(1, 8000), 8000)
        want = read(path).samples
        path.write_bytes(path.read_bytes() + tail)
        assert np.array_equal(read(path).samples, want)


def test_a_flac_that_does_not_state_its_length(tmp_path):
    """Encoders that write to a pipe leave the total at 0: 36 bits of STREAMINFO, in bytes 21 to 25 of the file."""
    x = helpers.tone(3, 16000)
    soundfile.write(tmp_path / "a.flac", x, 16000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    assert read(tmp_path / "a.flac").samples.shape == (1, len(x))
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4  # 2^36 - 1 samples promised
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(ClipError) as caught:
        read(tmp_path / "a.flac")
    assert caught.value.code == "truncated"


@pytest.mark.parametrize(("ext", "sub"), [("ogg", "VORBIS"), ("opus", "OPUS")])
def test_an_ogg_stream_cut_in_its_last_page(tmp_path, ext, sub):
    path = tmp_path / f"a.{ext}"
    soundfile.write(path, helpers.tone(3, 48000), 48000, format="OGG", subtype=sub)
    data = path.read_bytes()
    path.write_bytes(data + bytes(200_000))  # what follows the stream is no matter
    assert read(path).samples.shape == (1, 144000)
    path.write_bytes(data[: data.rfind(b"OggS") + 60])
    with pytest.raises(ClipError) as caught:
        read(path)
    assert caught.value.code == "truncated"


def test_a_path_longer_than_libsndfile_takes(tmp_path):
    folder = tmp_path
    for length in (1023, 1024, 1025, 3000):
        while length - len(str(folder)) > 250:
            folder /= "e" * 200
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("f" * (length - len(str(folder)) - 5) + ".wav")
        assert len(str(path)) == length
        with open(path, "wb") as file:
            soundfile.write(file, helpers.tone(0.1, 16000), 16000, format="WAV")
        assert read(path).samples.shape == (1, 1600)


def test_an_error_of_the_system_is_told(tmp_path):
    """libsndfile says "System error" for whatever it is; that no more files can be opened is no clip's failure."""
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.1, 16000), 16000)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read(tmp_path / "a.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
