"""Segments of a file that is not sought in exactly: one pass serves neighbours, with the samples of the whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hlfeat
from hlfeat.audio import passes
from hlfeat.audio.clip import Clip
from hlfeat.audio.passes import SharedPasses
from hlfeat.audio.reader import Reader, decode
from hlfeat.errors import ClipError
from tests import helpers
from tests.audio.media import Media, encode

RATE = 48000
SECONDS = 20
KINDS = {
    "mp3": Media("mp3", "mp3", "libmp3lame", RATE, 1),
    "mp3 without a tag": Media("mp3", "mp3", "libmp3lame", RATE, 1),
    "vorbis": Media("ogg", "", "", RATE, 1),
    "opus": Media("opus", "ogg", "libopus", RATE, 1),
    "aac": Media("m4a", "mp4", "aac", RATE, 1),
    "wav": Media("wav", "wav", "pcm_s16le", RATE, 1),
}


@pytest.fixture(scope="module", params=KINDS)
def recording(request, tmp_path_factory) -> Path:
    kind = KINDS[request.param]
    path = tmp_path_factory.mktemp("recording") / f"a.{kind.extension}"
    x = helpers.tone(SECONDS, RATE) + 0.1 * helpers.tone(SECONDS, RATE, 91, seed=1)
    if request.param == "vorbis":
        soundfile.write(path, x, RATE, format="OGG", subtype="VORBIS")
        return path
    return encode(path, kind, x[:, None], {"write_xing": "0"} if "without" in request.param else None)


@pytest.fixture
def openings(monkeypatch) -> Iterator[list[str]]:
    """The paths of files that are opened, in order."""
    opened: list[str] = []
    before = hlfeat.audio.reader.open_decoder

    def counted(clip: Clip, *more: bool):
        opened.append(clip.path)
        return before(clip, *more)

    monkeypatch.setattr("hlfeat.audio.reader.open_decoder", counted)
    return opened


def segment(path: Path, start: float, end: float | None) -> Clip:
    return Clip("a", str(path), start, end)


def read(clip: Clip, shared: SharedPasses) -> np.ndarray:
    with Reader(clip, "mix", passes=shared) as reader:
        return np.concatenate(list(reader.blocks()), axis=1)[0]


def cut(whole: np.ndarray, clip: Clip) -> np.ndarray:
    return whole[round((clip.start or 0) * RATE) : None if clip.end is None else round(clip.end * RATE)]


def times(kind: str) -> list[tuple[float, float | None]]:
    dice = np.random.default_rng(5)
    if kind == "side by side":
        return [(float(i), i + 1.0) for i in range(SECONDS)]
    if kind == "overlapping":
        return [(i * 0.5, i * 0.5 + 1.7) for i in range(30)]
    if kind == "with gaps, to the end":
        return [(0.5, 1.0), (3.0, 3.1), (11.25, 12.0), (19.0, None)]
    starts = dice.uniform(0, SECONDS - 2, 25)
    return [(float(s), float(s + d)) for s, d in zip(starts, dice.uniform(0.01, 2, 25), strict=True)]


@pytest.mark.parametrize("kind", ["side by side", "overlapping", "with gaps, to the end", "in any order"])
@pytest.mark.parametrize("tail", [None, 1000, 40_000])
def test_segments_are_parts_of_the_whole(recording, kind, tail, monkeypatch):
    if tail is not None:
        monkeypatch.setattr(passes, "_TAIL", tail)
    whole, shared = decode(Clip("a", str(recording))).samples[0], SharedPasses()
    for start, end in times(kind):
        clip = segment(recording, start, end)
        np.testing.assert_array_equal(read(clip, shared), cut(whole, clip), err_msg=f"{start} to {end}")
    shared.close()


@pytest.mark.parametrize("kind", ["side by side", "overlapping", "with gaps, to the end"])
def test_neighbours_share_one_pass(recording, kind, openings):
    if recording.suffix == ".wav":
        pytest.skip("sought exactly")
    shared = SharedPasses()
    for start, end in times(kind):
        read(segment(recording, start, end), shared)
    assert len(openings) == 1
    shared.close()


def test_a_segment_that_fails_does_no_harm(recording):
    whole, shared = decode(Clip("a", str(recording))).samples[0], SharedPasses()
    for start, end in ((1, 2), (50, 51), (2, 3), (3, 2.5), (4, 5), (SECONDS - 1, SECONDS + 0.3), (5, 6)):
        clip = segment(recording, start, end)
        if start < SECONDS and end > start:
            np.testing.assert_array_equal(read(clip, shared), cut(whole, clip))
        else:
            with pytest.raises(ClipError) as caught:
                read(clip, shared)
            assert caught.value.code == "bad-segment"
    shared.close()


def test_files_are_closed(recording):
    before = len(os.listdir("/proc/self/fd"))
    shared = SharedPasses()
    for i in range(3):
        read(segment(recording, i, i + 1), shared)
    shared.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_reads_the_file_once_or_little_more(recording, workers, openings, tmp_path):
    lines = [{"id": f"{i:02d}", "path": str(recording), "start": i * 0.5, "end": i * 0.5 + 1} for i in range(38)]
    (tmp_path / "parts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    inputs = hlfeat.collect_inputs([str(tmp_path / "parts.jsonl")])
    config = hlfeat.load_config("log-mel")
    hlfeat.extract(config, inputs, tmp_path / "out", hlfeat.Options(workers=workers, quiet=True, device="cpu"))
    assert len(hlfeat.FeatureStore(tmp_path / "out")) == len(lines)
    if recording.suffix != ".wav":
        assert len(openings) <= workers


def test_both_segments_of_two_files_in_turn(recording, openings, tmp_path):
    """A list that goes to and fro between files keeps both open."""
    if recording.suffix == ".wav":
        pytest.skip("sought exactly")
    other = tmp_path / recording.name
    other.write_bytes(recording.read_bytes())
    shared = SharedPasses()
    for i in range(10):
        read(segment(recording, i, i + 1), shared)
        read(segment(other, i, i + 1), shared)
    assert len(openings) == 2
    shared.close()


def test_a_file_that_was_replaced_between_two_segments_is_opened_again(tmp_path, openings):
    """Its size and time go into the index, so the samples must be of the same file."""
    path = tmp_path / "a.ogg"
    shared = SharedPasses()
    for frequency in (220, 880):
        soundfile.write(tmp_path / "new.ogg", helpers.tone(3, RATE, frequency), RATE, format="OGG", subtype="VORBIS")
        os.replace(tmp_path / "new.ogg", path)
        clip = segment(path, 0.5 if frequency == 220 else 1.5, 1.0 if frequency == 220 else 2.0)
        np.testing.assert_array_equal(read(clip, shared), cut(decode(Clip("a", str(path))).samples[0], clip))
    shared.close()
    assert openings.count(str(path)) == 4  # each of the segments, and each whole file
