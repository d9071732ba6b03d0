"""MPEG audio: its length is counted, not guessed; files of each kind are read to their last frame, or refused."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile

from hlfeat.audio.clip import Clip
from hlfeat.audio.mpeg import scan_mpeg
from hlfeat.audio.reader import decode
from hlfeat.errors import ClipError
from tests import helpers
from tests.audio.media import Media, encode, ffmpeg_samples

SECONDS = 4
DELAY = 2304  # samples by which decoders may differ: those of the encoder's delay and of its last frame


def mp3(path, rate: int = 44100, options: dict[str, str] | None = None, seconds: float = SECONDS) -> bytes:
    """An MP3 of a tone; without a Xing tag if the container's options are {"write_xing": "0"}."""
    x = helpers.tone(seconds, rate)[:, None]
    return encode(path, Media("mp3", "mp3", "libmp3lame", rate, 1), x, options).read_bytes()


def vbr(quiet_first: bool) -> bytes:
    """An MP3 of variable bit rate whose halves differ in it, without a tag."""
    noise = np.random.default_rng(0).normal(size=44100 * 3).astype(np.float32) * 0.2
    halves = [np.zeros(44100 * 3, np.float32), noise]
    file = io.BytesIO()
    x = np.concatenate(halves if quiet_first else halves[::-1])
    soundfile.write(file, x, 44100, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE")
    data = file.getvalue()
    tag = data.index(b"Xing")
    first = data[:tag].rindex(b"\xff\xfb")
    size = (
        144 * 1000 * [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320][data[first + 2] >> 4] // 44100
    )
    return data[:first] + data[first + size + (data[first + 2] >> 1 & 1) :]


def patched_count(data: bytes, change: int | None) -> bytes:
    """The count of a Xing or Info tag, changed: by a number, or to 0."""
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    count = int.from_bytes(data[tag + 8 : tag + 12], "big")
    return data[: tag + 8] + (0 if change is None else count + change).to_bytes(4, "big") + data[tag + 12 :]


def samples(path) -> np.ndarray:
    return decode(Clip("a", str(path))).samples[0]


def code(path) -> str:
    with pytest.raises(ClipError) as caught:
        samples(path)
    return caught.value.code


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000])
def test_without_a_tag_all_of_it_is_read(tmp_path, rate):
    mp3(tmp_path / "a.mp3", rate, {"write_xing": "0"})
    reference = ffmpeg_samples(tmp_path / "a.mp3")[:, 0]
    x = samples(tmp_path / "a.mp3")
    assert len(x) == len(reference) >= SECONDS * rate
    np.testing.assert_allclose(x, reference, atol=1e-3)  # two decoders


@pytest.mark.parametrize("quiet_first", [False, True])
def test_variable_bit_rates_without_a_tag(tmp_path, quiet_first):
    (tmp_path / "a.mp3").write_bytes(vbr(quiet_first))
    assert len(samples(tmp_path / "a.mp3")) == len(ffmpeg_samples(tmp_path / "a.mp3")) > 44100 * 6


@pytest.mark.parametrize("change", [None, 1, -1, -40, -100])
def test_a_tag_with_a_wrong_count(tmp_path, change):
    data = mp3(tmp_path / "a.mp3")
    whole = samples(tmp_path / "a.mp3")
    assert len(whole) == SECONDS * 44100
    (tmp_path / "a.mp3").write_bytes(patched_count(data, change))
    assert len(samples(tmp_path / "a.mp3")) == pytest.approx(len(whole), abs=DELAY)


def test_a_tag_that_counts_more_frames_than_there_are(tmp_path):
    data = mp3(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(patched_count(data, 20))
    assert code(tmp_path / "a.mp3") == "truncated"


@pytest.mark.parametrize("options", [{}, {"write_xing": "0"}])
def test_joined_files(tmp_path, options):
    first, second = (mp3(tmp_path / "a.mp3", options=options, seconds=s) for s in (2, 3))
    (tmp_path / "a.mp3").write_bytes(first + second)
    assert len(samples(tmp_path / "a.mp3")) == pytest.approx(5 * 44100, abs=2 * DELAY)


@pytest.mark.parametrize("options", [{}, {"write_xing": "0"}])
@pytest.mark.parametrize("where", ["before", "after", "between"])
def test_tags_and_pictures_are_no_damage(tmp_path, options, where):
    data = mp3(tmp_path / "a.mp3", options={**options, "id3v2_version": "0"})
    want = len(samples(tmp_path / "a.mp3"))
    picture = bytes([0xFF, 0xFB, 0x90, 0x64]) * 20000  # which looks like frames
    size = len(picture)
    id3 = b"ID3\x04\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + picture
    id3v1 = b"TAG" + b" " * 125
    ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)  # a footer, no items
    joined = {"before": id3 + data, "after": data + ape + id3v1, "between": data + id3v1 + id3 + data}
    (tmp_path / "a.mp3").write_bytes(joined[where])
    assert len(samples(tmp_path / "a.mp3")) == pytest.approx(want * (2 if where == "between" else 1), abs=2 * DELAY)


@pytest.mark.parametrize("options", [{}, {"write_xing": "0"}])
def test_a_stream_cut_within_a_frame_is_truncated(tmp_path, options):
    data = mp3(tmp_path / "a.mp3", options=options)
    for end in (len(data) * 6 // 10, len(data) - 1):
        (tmp_path / "a.mp3").write_bytes(data[:end])
        assert code(tmp_path / "a.mp3") == "truncated"


@pytest.mark.parametrize("options", [{}, {"write_xing": "0"}])
def test_bytes_that_are_no_frames_are_damage(tmp_path, options):
    data = mp3(tmp_path / "a.mp3", options=options)
    noise = np.random.default_rng(1).bytes(3000)
    middle = len(data) // 2
    (tmp_path / "a.mp3").write_bytes(data[:middle] + noise + data[middle + 3000 :])
    with pytest.raises(ClipError, match=r"bytes at \d\.\d\d s are no frames") as caught:
        samples(tmp_path / "a.mp3")
    assert caught.value.code == "corrupt"


def test_a_recording_that_begins_within_a_frame(tmp_path):
    """Streams are cut out of broadcasts anywhere: what is left of the first frame is no damage."""
    data = mp3(tmp_path / "a.mp3", options={"write_xing": "0", "id3v2_version": "0"})
    (tmp_path / "a.mp3").write_bytes(data[10_100:])
    x, reference = samples(tmp_path / "a.mp3"), ffmpeg_samples(tmp_path / "a.mp3")
    assert len(x) == pytest.approx(len(reference), abs=DELAY)


def test_layer_ii(tmp_path):
    encode(tmp_path / "a.mp2", Media("mp2", "mp2", "mp2", 48000, 1), helpers.tone(SECONDS, 48000)[:, None])
    assert len(samples(tmp_path / "a.mp2")) == len(ffmpeg_samples(tmp_path / "a.mp2")) >= SECONDS * 48000


@pytest.mark.parametrize("codec", ["libmp3lame", "mp2"])
def test_mpeg_audio_in_wav(tmp_path, codec):
    x = helpers.tone(SECONDS, 44100)[:, None]
    encode(tmp_path / "a.wav", Media("wav", "wav", codec, 44100, 1), x)
    assert len(samples(tmp_path / "a.wav")) == pytest.approx(len(ffmpeg_samples(tmp_path / "a.wav")), abs=DELAY)


def test_what_is_no_mpeg_audio(tmp_path):
    page = b"<!DOCTYPE html><html><title>404 Not Found</title>" + b"<p>no such file</p>\n" * 90
    for name, data in (("page", page), ("noise", np.random.default_rng(0).bytes(4000)), ("zeros", bytes(4000))):
        (tmp_path / f"{name}.mp3").write_bytes(data)
        assert code(tmp_path / f"{name}.mp3") == "not-audio", name


@pytest.mark.parametrize("layer", ["mp2", "libmp3lame"])
@pytest.mark.parametrize("rate", [16000, 22050, 24000, 32000, 44100, 48000])
def test_frames_are_those_that_ffmpeg_finds(tmp_path, layer, rate):
    x = helpers.tone(2, rate)[:, None]
    kind = Media("mp3", "mp2" if layer == "mp2" else "mp3", layer, rate, 1)
    path = encode(tmp_path / "a.mp3", kind, x, {} if layer == "mp2" else {"write_xing": "0"})
    with av.open(str(path)) as container:
        frames = sum(1 for packet in container.demux(audio=0) if packet.size)
    with open(path, "rb") as file:
        stream = scan_mpeg(file, 0, path.stat().st_size)
    assert stream is not None
    assert (stream.frames, stream.sample_rate, stream.cut, stream.lost) == (frames, rate, False, None)
