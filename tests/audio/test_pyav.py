"""FFmpeg's formats, through PyAV: exactly FFmpeg's samples, files that end early, what is said without PyAV; and that
no file but the clip's is opened."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from hlfeat.audio.clip import Clip, Span
from hlfeat.audio.pyav import FORMATS
from hlfeat.audio.reader import Reader, decode
from hlfeat.errors import ClipError
from tests import helpers
from tests.audio.media import MEDIA, Media, encode, ffmpeg_samples

LIBSNDFILE_READS = {"MP2"}
AV_ONLY = [name for name in MEDIA if name not in LIBSNDFILE_READS]
SECONDS = 2


def make(folder: Path, name: str, seconds: float = SECONDS) -> Path:
    kind = MEDIA[name]
    x = helpers.tone(seconds, kind.rate)
    stereo = np.stack([x, 0.5 * np.roll(x, 40)], 1)
    return encode(folder / f"{name}.{kind.extension}", kind, stereo[:, : kind.channels])


def each_channel(path: Path) -> np.ndarray:
    """[T, channels]"""
    return decode(Clip("a", str(path)), "each").samples.T


def error(path: Path) -> ClipError:
    with pytest.raises(ClipError) as caught:
        each_channel(path)
    return caught.value


def outcome(path: Path) -> str | int:
    """The number of samples, or the code of the failure."""
    try:
        return len(each_channel(path))
    except ClipError as e:
        return e.code


@pytest.mark.parametrize("name", AV_ONLY)
def test_the_samples_are_ffmpegs(tmp_path, name):
    path = make(tmp_path, name)
    with Reader(Clip("a", str(path)), "each") as reader:
        x = np.concatenate(list(reader.blocks()), axis=1).T
    np.testing.assert_array_equal(x, ffmpeg_samples(path))
    assert len(x) == pytest.approx(SECONDS * MEDIA[name].rate, abs=4096)  # a codec's frame or two
    assert reader.decoder == f"av {'.'.join(av.__version__.split('.')[:2])}"


@pytest.mark.parametrize("name", AV_ONLY)
def test_without_pyav_the_message_says_what_to_install(tmp_path, name, monkeypatch):
    path = make(tmp_path, name, 0.3)
    monkeypatch.setattr("hlfeat.audio.pyav.is_installed", lambda: False)
    if MEDIA[name].extension not in ("avi", "m2ts", "mkv"):  # films, which do not count as audio then
        assert error(path).code == "unsupported"
        assert "pip install 'hlfeat[av]'" in str(error(path))
    else:
        assert error(path).code == "not-audio"


@pytest.mark.parametrize("name", AV_ONLY)
def test_a_file_that_was_cut_is_noticed(tmp_path, name):
    path = make(tmp_path, name)
    data = path.read_bytes()
    whole = len(each_channel(path))
    for part in (0.3, 0.6, 0.9, 0.99):
        path.write_bytes(data[: int(part * len(data)) | 1])  # not between two frames of an even size
        assert error(path).code == "truncated", part
    path.write_bytes(data[:-1])  # not always a byte of audio
    assert outcome(path) in ("truncated", "corrupt", whole)


@pytest.mark.parametrize("name", ["AAC in MP4", "Opus in WebM", "WMA", "AMR-NB"])
def test_members_of_archives(tmp_path, name):
    path = make(tmp_path, name)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(make(tmp_path, "AC-3"), "other.ac3")
        archive.add(path, path.name)
        member = archive.getmember(path.name)
    info = os.stat(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        member = archive.getmember(path.name)
    span = Span(path.name, member.offset_data, member.size, (info.st_size, info.st_mtime_ns))
    x = decode(Clip("a", str(tmp_path / "a.tar"), span=span), "each").samples.T
    np.testing.assert_array_equal(x, ffmpeg_samples(path))


def test_a_member_that_is_too_large_for_a_copy(tmp_path, monkeypatch):
    path = make(tmp_path, "AAC in MP4")
    monkeypatch.setattr("hlfeat.audio.byte_source.MAX_COPY", 100)
    padded = b"x" * 500 + path.read_bytes() + b"x" * 500
    (tmp_path / "a.tar").write_bytes(padded)
    info = os.stat(tmp_path / "a.tar")
    span = Span("a.m4a", 500, path.stat().st_size, (info.st_size, info.st_mtime_ns))
    x = decode(Clip("a", str(tmp_path / "a.tar"), span=span), "each").samples.T
    np.testing.assert_array_equal(x, ffmpeg_samples(path))


class Pipe:
    """Where a container is written that cannot be sought in."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("matroska", "pcm_s16le"),
        ("matroska", "ac3"),
        ("matroska", "libmp3lame"),
        ("matroska", "libopus"),
        ("webm", "libopus"),
        ("asf", "wmav2"),
        ("avi", "pcm_s16le"),
        ("mpegts", "aac"),
        ("flv", "aac"),
        ("wv", "wavpack"),
    ],
)
def test_containers_from_a_pipe_promise_nothing(tmp_path, container, codec):
    """They state no duration, and FFmpeg's estimate of one, from bit rates, is too long by the size of the headers."""
    pipe, x = Pipe(), helpers.tone(30, 48000 if codec != "wmav2" else 44100)
    with av.open(pipe, "w", format=container) as output:
        stream = output.add_stream(codec, rate=48000 if codec != "wmav2" else 44100, layout="mono")
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(x[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = stream.rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    path = tmp_path / "a.bin"
    path.write_bytes(pipe.data)
    np.testing.assert_array_equal(each_channel(path), ffmpeg_samples(path))
    path.write_bytes(pipe.data[: len(pipe.data) * 6 // 10 + 1])
    if container not in ("asf", "avi", "flv", "mpegts"):
        assert error(path).code == "truncated"


def test_the_first_audio_stream_beside_video(tmp_path):
    x = [helpers.tone(2, 48000, pitch) for pitch in (300, 700)]
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        sounds = [output.add_stream("flac", rate=48000, layout="mono") for _ in x]
        for i in range(50):
            picture = av.VideoFrame.from_ndarray(np.full((96, 64), i, np.uint8), format="yuv420p")
            picture.pts = i
            output.mux(video.encode(picture))
        for stream, samples in zip(sounds, x, strict=True):
            frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            output.mux(stream.encode(frame))
        for stream in (video, *sounds):
            output.mux(stream.encode(None))
    np.testing.assert_allclose(each_channel(tmp_path / "a.mkv")[:, 0], x[0], atol=1e-4)


def test_a_film_without_sound(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        for i in range(5):
            output.mux(video.encode(av.VideoFrame.from_ndarray(np.full((96, 64), i, np.uint8), format="yuv420p")))
        output.mux(video.encode(None))
    assert error(tmp_path / "a.mp4").code == "not-audio"


@pytest.mark.parametrize("name", ["AAC in MP4", "FLAC in Matroska"])
def test_films_in_folders_count_as_audio(tmp_path, name, invoke):
    (tmp_path / "clips").mkdir()
    kind = MEDIA[name]
    extension = {"mp4": "mov", "matroska": "mkv"}[kind.container]
    encode(tmp_path / "clips" / f"a.{extension}", kind, np.stack([helpers.tone(1, kind.rate)] * 2, 1))
    done = invoke("extract", tmp_path / "clips", "-o", tmp_path / "out", "-c", "log-mel", "-q")
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(text) for text in (tmp_path / "out/shard-00000.jsonl").read_text().splitlines()][:1]
    assert line["id"] == f"a.{extension}"
    assert line["decoder"].startswith("av ")


# What a file may name, and what FFmpeg would open for it: a path of another file, in formats that are scripts.
SECRET = "secret.wav"
SCRIPTS = {
    "concat": "ffconcat version 1.0\nfile 'secret.wav'\n",
    "concat, absolute": "ffconcat version 1.0\nfile '{folder}/secret.wav'\n",
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "hls, absolute": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nfile://{folder}/secret.wav\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'contentType="audio" mimeType="audio/wav"><Representation id="0" bandwidth="1"><BaseURL>{folder}/secret.wav'
    "</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "imf": '<?xml version="1.0"?><AssetMap><Path>secret.wav</Path></AssetMap>',
}


@pytest.mark.parametrize("extension", ["m4a", "mp4", "webm", "m3u8", "wav", "mp3"])
@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts_that_name_other_files(tmp_path, kind, extension, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / SECRET, helpers.tone(2, 16000), 16000)
    path = tmp_path / f"a.{extension}"
    path.write_text(SCRIPTS[kind].replace("{folder}", str(tmp_path)))
    assert error(path).code in ("not-audio", "unsupported")


def test_a_film_whose_index_names_another_file(tmp_path):
    """QuickTime's data references (dref): an alias instead of samples in the file itself."""
    path = make(tmp_path, "AAC in MP4")
    soundfile.write(tmp_path / SECRET, helpers.tone(2, 16000), 16000)
    data = path.read_bytes()
    own = b"url \0\0\0\x01"  # the file itself
    assert data.count(own) == 1
    path.write_bytes(data.replace(own, b"alis\0\0\0\0"))
    assert outcome(path) in ("corrupt", "unsupported", "empty", len(ffmpeg_samples(path)))


def test_formats_that_open_other_files_are_not_read():
    names = set(FORMATS.split(","))
    assert not names & {"concat", "hls", "dash", "sdp", "rtsp", "image2", "lavfi", "tee", "imf", "applehttp", "m3u8"}


@pytest.mark.parametrize(
    "name", ["http:a.m4a", "concat:a|b.m4a", "file:a.m4a", "data:audio;base64,AAAA.m4a", "-.m4a", "pipe:0.m4a"]
)
def test_names_are_paths_and_never_addresses(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path, "AAC in MP4", 0.5)
    want = each_channel(path)
    os.rename(path, name)
    np.testing.assert_array_equal(decode(Clip("a", name), "each").samples.T, want)
    os.remove(name)
    with pytest.raises(ClipError) as caught:
        decode(Clip("a", name))
    assert caught.value.code == "missing"


def test_an_address_is_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http://127.0.0.1:9/a.m4a", "concat:a.wav|b.wav", "subfile,,start,0,end,9,,:a.wav", "fd:3"):
        with pytest.raises(ClipError) as caught:
            decode(Clip("a", name))
        assert caught.value.code == "missing", name


def test_sphere_files_packed_with_shorten(tmp_path):
    """A header made by hand: no Python package writes shorten, and FFmpeg does not read it in SPHERE."""
    header = (
        "NIST_1A\n   1024\nsample_count -i 16000\nsample_rate -i 16000\nchannel_count -i 1\nsample_n_bytes -i 2\n"
        "sample_byte_format -s2 01\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    )
    data = header.encode().ljust(1024) + b"ajkg\x02" + np.random.default_rng(0).bytes(3000)
    (tmp_path / "a.sph").write_bytes(data)
    assert error(tmp_path / "a.sph").code == "unsupported"


def test_a_recording_that_changes_on_the_way(tmp_path):
    """Two AAC streams of different rates, one after the other."""
    parts = []
    for rate in (44100, 22050):
        kind = Media("aac", "adts", "aac", rate, 1)
        parts.append(encode(tmp_path / "a.aac", kind, helpers.tone(1, rate)[:, None]).read_bytes())
    (tmp_path / "a.aac").write_bytes(b"".join(parts))
    assert error(tmp_path / "a.aac").code in ("unsupported", "corrupt")
