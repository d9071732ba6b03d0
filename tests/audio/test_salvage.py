"""Recordings that were cut short: a failure, or, if they are to be kept, what is there of them; the index says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hlfeat
from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import Reader, decode
from hlfeat.errors import ClipError
from tests import helpers
from tests.audio.media import MEDIA, encode

SECONDS = 4
SNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "alac.caf": ("CAF", "ALAC_16"),
    "sph": ("NIST", "PCM_16"),
    "sds": ("SDS", "PCM_16"),
    "gsm.wav": ("WAV", "GSM610"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
}
AV = [
    "AAC in ADTS",
    "AAC in Matroska",
    "Opus in WebM",
    "FLAC in Matroska",
    "AC-3",
    "AMR-NB",
    "WMA",
    "TTA",
    "WavPack",
    "FLAC in Ogg",
    "WMA in WAV",
]


def make(folder: Path, name: str, part: float = 1) -> Path:
    """A file of SECONDS, of which only a part was written."""
    if name in SNDFILE:
        path, (form, subtype) = folder / f"a.{name}", SNDFILE[name]
        soundfile.write(path, helpers.tone(SECONDS, 48000), 48000, format=form, subtype=subtype)
    else:
        kind = MEDIA[name]
        x = np.stack([helpers.tone(SECONDS, kind.rate)] * kind.channels, 1)
        path = encode(folder / f"a.{kind.extension}", kind, x)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) if part == 1 else int(part * len(data)) | 1])
    return path


def keep(path: Path, start: float | None = None, end: float | None = None) -> tuple[np.ndarray, Reader]:
    with Reader(Clip("a", str(path), start, end), keep_truncated=True) as reader:
        return np.concatenate(list(reader.blocks()), axis=1)[0], reader


@pytest.mark.parametrize("name", [*SNDFILE, *AV])
def test_what_is_there_is_kept(tmp_path, name):
    whole = decode(Clip("a", str(make(tmp_path, name)))).samples[0]
    path = make(tmp_path, name, 0.605)  # not within the first bytes of a frame of AC-3, which FFmpeg passes over
    with pytest.raises(ClipError) as caught:
        decode(Clip("a", str(path)))
    assert caught.value.code in ("truncated", "corrupt")
    kept, reader = keep(path)
    assert 0.4 < len(kept) / len(whole) < 0.75  # encoders spend their bytes unevenly
    assert reader.shortfall is not None
    assert reader.shortfall.there == pytest.approx(len(kept) / reader.sample_rate)
    if reader.shortfall.promised is not None:
        assert reader.shortfall.promised == pytest.approx(SECONDS, abs=0.15)
    sure = len(kept) - 5000  # the last frames may lean on what is not there
    np.testing.assert_allclose(kept[:sure], whole[:sure], atol=1e-6)


@pytest.mark.parametrize("name", [*SNDFILE, *AV])
def test_whole_files_are_whole(tmp_path, name):
    path = make(tmp_path, name)
    kept, reader = keep(path)
    assert reader.shortfall is None
    np.testing.assert_array_equal(kept, decode(Clip("a", str(path))).samples[0])


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "ogg", "AAC in ADTS", "Opus in WebM"])
def test_segments_of_a_file_that_was_cut(tmp_path, name):
    whole = decode(Clip("a", str(make(tmp_path, name)))).samples[0]
    path = make(tmp_path, name, 0.6)
    kept, reader = keep(path, 0.5, 1.0)
    rate = reader.sample_rate
    assert len(kept) == round(0.5 * rate)
    np.testing.assert_allclose(kept, whole[round(0.5 * rate) : rate], atol=1e-6)
    with pytest.raises(ClipError):
        keep(path, SECONDS - 0.5, SECONDS)


@pytest.mark.parametrize("block", [576, 4096])
def test_a_flac_whose_header_is_older_than_its_data(tmp_path, block):
    kind = MEDIA["FLAC in Ogg"]._replace(extension="flac", container="flac")
    path = encode(tmp_path / "a.flac", kind, np.stack([helpers.tone(SECONDS, kind.rate)] * 2, 1))
    data = bytearray(path.read_bytes())
    assert len(decode(Clip("a", str(path))).samples[0]) == SECONDS * kind.rate
    data[22:26] = (block * 10).to_bytes(4, "big")  # of the 36 bits of the total
    data[21] &= 0xF0
    path.write_bytes(data)
    with pytest.raises(
        ClipError, match=f"counts {block * 10} samples, but they go on to {SECONDS * kind.rate}"
    ) as caught:
        decode(Clip("a", str(path)))
    assert caught.value.code == "truncated"


@pytest.mark.parametrize("name", ["wav", "mp3", "AAC in Matroska"])
def test_nothing_of_it_is_there(tmp_path, name):
    path = make(tmp_path, name)
    data = path.read_bytes()
    path.write_bytes(data[:44] if name == "wav" else data[:150])
    with pytest.raises(ClipError) as caught:
        keep(path)
    assert caught.value.code in ("truncated", "corrupt", "unsupported", "not-audio", "empty")


def test_the_index_says_what_is_missing(tmp_path, invoke):
    (tmp_path / "clips").mkdir()
    for name in ("wav", "mp3", "Opus in WebM"):
        make(tmp_path / "clips", name, 0.6)
    soundfile.write(tmp_path / "clips/whole.wav", helpers.tone(1, 16000), 16000)
    arguments = ["extract", tmp_path / "clips", "-c", "log-mel", "-q"]
    done = invoke(*arguments, "-o", tmp_path / "fail")
    assert done.returncode == 3
    assert list(hlfeat.FeatureStore(tmp_path / "fail").ids) == ["whole.wav"]
    done = invoke(*arguments, "-o", tmp_path / "keep", "--on-truncated", "keep")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "keep/shard-00000.jsonl").read_text().splitlines()]
    rows = {line["id"]: line for line in lines if "id" in line}
    assert set(rows) == {"a.wav", "a.mp3", "a.webm", "whole.wav"}
    assert "truncated" not in rows.pop("whole.wav")
    for row in rows.values():
        assert row["truncated"] is True
        assert row["seconds_there"] == pytest.approx(row["duration"])
        assert row["seconds_there"] < 0.75 * SECONDS
    assert rows["a.wav"]["seconds_promised"] == pytest.approx(SECONDS, abs=0.01)
    assert rows["a.mp3"]["seconds_promised"] == pytest.approx(SECONDS, abs=0.1)
    assert rows["a.webm"]["decoder"].startswith("av ")
    assert "decoder" not in rows["a.wav"]


def test_both_ways_from_python(tmp_path):
    (tmp_path / "clips").mkdir()
    make(tmp_path / "clips", "wav", 0.6)
    soundfile.write(tmp_path / "clips/whole.wav", helpers.tone(1, 16000), 16000)
    config, inputs = hlfeat.load_config("log-mel"), hlfeat.collect_inputs([str(tmp_path / "clips")])
    for choice, clips in (("fail", 1), ("keep", 2)):
        options = hlfeat.Options(on_truncated=choice, quiet=True, device="cpu")
        hlfeat.extract(config, inputs, tmp_path / choice, options)
        assert len(hlfeat.FeatureStore(tmp_path / choice)) == clips
