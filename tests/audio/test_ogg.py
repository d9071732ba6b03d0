"""Ogg: streams that are chained, cut, unfinished or damaged; codecs that libsndfile does not read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hlfeat.audio.clip import Clip
from hlfeat.audio.ogg import scan_ogg
from hlfeat.audio.reader import Reader, decode
from hlfeat.errors import ClipError
from tests import helpers
from tests.audio.media import MEDIA, encode, ffmpeg_samples

CODECS = [("ogg", "VORBIS"), ("opus", "OPUS")]
FILES = Path(__file__).parent / "files"


def ogg(subtype: str, seconds: float = 4, seed: int = 0, channels: int = 1) -> bytes:
    """A stream of its own serial number."""
    file = io.BytesIO()
    x = np.stack([helpers.tone(seconds, 48000, seed=seed)] * channels, 1)
    soundfile.write(file, x, 48000, format="OGG", subtype=subtype)
    return file.getvalue()


def pages(data: bytes) -> list[bytes]:
    """The pages of a file."""
    found, position = [], 0
    while position < len(data):
        sizes = data[position + 27 : position + 27 + data[position + 26]]
        end = position + 27 + len(sizes) + sum(sizes)
        found.append(data[position:end])
        position = end
    return found


def with_checksum(page: bytes) -> bytes:
    """A page whose checksum is made anew, bit by bit (RFC 3533, section 6)."""
    page = page[:22] + bytes(4) + page[26:]
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return page[:22] + crc.to_bytes(4, "little") + page[26:]


def without_end(data: bytes) -> bytes:
    """A stream whose last page does not say that it is the last."""
    *others, last = pages(data)
    return b"".join([*others, with_checksum(last[:5] + bytes([last[5] & ~4]) + last[6:])])


def samples(path: Path) -> np.ndarray:
    return decode(Clip("a", str(path))).samples[0]


def error(path: Path) -> ClipError:
    with pytest.raises(ClipError) as caught:
        samples(path)
    return caught.value


@pytest.fixture
def without_av(monkeypatch):
    monkeypatch.setattr("hlfeat.audio.pyav.is_installed", lambda: False)


@pytest.mark.parametrize(("ext", "subtype"), CODECS)
def test_chained_streams_are_read_to_the_end(tmp_path, ext, subtype):
    path = tmp_path / f"a.{ext}"
    path.write_bytes(ogg(subtype, 2) + ogg(subtype, 3, seed=1))
    x, reference = samples(path), ffmpeg_samples(path)[:, 0]
    assert len(x) == len(reference) == pytest.approx(5 * 48000, abs=2048)
    np.testing.assert_array_equal(x, reference)


@pytest.mark.parametrize(("ext", "subtype"), CODECS)
@pytest.mark.usefixtures("without_av")
def test_chained_streams_are_never_cut(tmp_path, ext, subtype):
    path = tmp_path / f"a.{ext}"
    path.write_bytes(ogg(subtype, 2) + ogg(subtype, 3, seed=1))
    assert error(path).code == "unsupported"
    assert "pip install 'hlfeat[av]'" in str(error(path))


@pytest.mark.parametrize(("ext", "subtype"), CODECS)
def test_chained_streams_that_differ(tmp_path, ext, subtype):
    """The number of channels changes on the way."""
    path = tmp_path / f"a.{ext}"
    path.write_bytes(ogg(subtype, 2) + ogg(subtype, 3, channels=2))
    assert error(path).code == "unsupported"


@pytest.mark.parametrize(("ext", "subtype"), CODECS)
def test_a_stream_without_an_end_page(tmp_path, ext, subtype):
    path = tmp_path / f"a.{ext}"
    path.write_bytes(b"".join(pages(ogg(subtype))[:-1]))  # such as a recorder leaves that died between two pages
    assert len(samples(path)) == len(ffmpeg_samples(path)) > 0
    if subtype == "VORBIS":
        path.write_bytes(without_end(ogg(subtype)))
        assert len(samples(path)) == pytest.approx(4 * 48000, abs=2048)


@pytest.mark.parametrize(("ext", "subtype"), CODECS)
def test_a_stream_that_was_cut_out_of_another(tmp_path, ext, subtype):
    """What `-c copy` and players of streams write: the headers, then pages from the middle, with their old numbers."""
    path = tmp_path / f"a.{ext}"
    first, *rest = pages(ogg(subtype, 20))
    headers = [first, *(p for p in rest if p[6:14] == bytes(8))]
    path.write_bytes(b"".join([*headers, *rest[len(rest) // 2 :]]))
    assert len(samples(path)) == pytest.approx(len(ffmpeg_samples(path)), abs=4096)


@pytest.mark.parametrize(("ext", "subtype"), CODECS)
@pytest.mark.parametrize("unfinished", [False, True])
def test_damaged_and_missing_pages(tmp_path, ext, subtype, unfinished):
    """libogg passes over a page whose checksum is wrong."""
    path = tmp_path / f"a.{ext}"
    data = ogg(subtype, 10)
    all_pages = pages(without_end(data) if unfinished else data)
    for i in range(2, len(all_pages)):
        page = all_pages[i]
        flipped = page[:60] + bytes([page[60] ^ 0x40]) + page[61:]
        path.write_bytes(b"".join([*all_pages[:i], flipped, *all_pages[i + 1 :]]))
        assert error(path).code == "corrupt", f"page {i} is damaged"
    for i in range(5, len(all_pages) - 1):
        path.write_bytes(b"".join([*all_pages[:i], *all_pages[i + 1 :]]))
        assert error(path).code == "corrupt", f"page {i} is missing"


@pytest.mark.parametrize(("ext", "subtype"), CODECS)
def test_a_stream_cut_within_a_page(tmp_path, ext, subtype):
    path = tmp_path / f"a.{ext}"
    data = ogg(subtype)
    for end in (len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        assert error(path).code == "truncated"
        with Reader(Clip("a", str(path)), keep_truncated=True) as reader:
            kept = sum(block.shape[1] for block in reader.blocks())
        assert 0 < kept <= 4 * 48000
        assert reader.shortfall is not None


def test_what_is_no_ogg_follows_the_stream(tmp_path):
    path = tmp_path / "a.ogg"
    data = ogg("VORBIS")
    path.write_bytes(data)
    want = samples(path)
    for tail in (b"TAG" + b" " * 125, bytes(5000)):
        path.write_bytes(data + tail)
        np.testing.assert_array_equal(samples(path), want)


def test_flac_in_ogg(tmp_path):
    kind = MEDIA["FLAC in Ogg"]
    x = np.stack([helpers.tone(2, kind.rate)] * 2, 1)
    path = encode(tmp_path / "a.oga", kind, x)
    np.testing.assert_allclose(samples(path), x[:, 0], atol=1e-4)
    path.write_bytes(path.read_bytes()[:-3000])
    assert error(path).code == "truncated"


def test_speex():
    x = samples(FILES / "speex.ogg")
    np.testing.assert_array_equal(x, ffmpeg_samples(FILES / "speex.ogg")[:, 0])
    assert len(x) == pytest.approx(16000, abs=640)


@pytest.mark.parametrize("name", ["flac", "speex"])
@pytest.mark.usefixtures("without_av")
def test_codecs_that_libsndfile_does_not_read(tmp_path, name):
    path = FILES / "speex.ogg"
    if name == "flac":
        path = encode(tmp_path / "a.oga", MEDIA["FLAC in Ogg"], np.stack([helpers.tone(1, 44100)] * 2, 1))
    assert error(path).code == "unsupported"
    assert "pip install 'hlfeat[av]'" in str(error(path))


def test_checksums_of_pages(tmp_path):
    """The quick checksum against the one of the standard."""
    data = ogg("VORBIS", 1)
    assert b"".join(map(with_checksum, pages(data))) == data
    for i in (30, 100, len(data) - 1):
        broken = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
        scanned = scan_ogg(io.BytesIO(broken), len(broken))
        assert scanned is not None
        assert scanned.fault == "gap"
    scanned = scan_ogg(io.BytesIO(data), len(data))
    assert scanned is not None
    assert scanned.fault is None
