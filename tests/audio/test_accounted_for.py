"""Whatever the bytes of a file are: as many samples as FFmpeg decodes of it, or a failure with a code."""

from __future__ import annotations

import os
import random
import time

import av
import pytest

from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import Reader, decode
from hlfeat.errors import ClipError
from tests.audio.media import ffmpeg_samples
from tests.audio.test_fuzz import AV, FORMATS, SEED, damaged, encoded

EACH = 100 if os.environ.get("HLFEAT_TESTS") == "thorough" else 10
LIMIT = 20  # seconds; no file of a third of a second takes one
CODES = {"not-audio", "unsupported", "empty", "truncated", "corrupt", "non-finite", "bad-rate", "out-of-memory"}

# libsndfile may give more than FFmpeg, which gives up earlier; less, only where the two differ about what is a header's
# and what is audio. Of the formats without a reference, FFmpeg reads none, or takes other headers for true.
MORE = {"W64", "SVX"}
MPEG_DELAY = 8192  # samples that an MP3's tag can tell to leave out at most: two numbers of 12 bits
NO_REFERENCE = {"SDS", "XI", "MAT5", "NIST", "IRCAM", "PAF", "VOC"}
KINDS = [kind for kind in FORMATS if kind[1] not in NO_REFERENCE]


def outcome(clip: Clip, keep: bool) -> int | str:
    """The number of samples, or the code of the failure."""
    try:
        with Reader(clip, keep_truncated=keep) as reader:
            return sum(block.shape[1] for block in reader.blocks())
    except ClipError as e:
        return e.code


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(kind[1:]))
def test_samples_are_accounted_for(tmp_path, kind):
    ext, form, subtype = kind
    whole = encoded(form, subtype, 1)
    path = tmp_path / f"a.{ext}"
    path.write_bytes(whole)
    shift = decode(Clip("a", str(path))).samples.shape[1] - len(ffmpeg_samples(path))  # of whole files: by priming
    for i in range(EACH):
        replay = f"{SEED} {form} {subtype} {i}"
        path.write_bytes(damaged(whole, random.Random(replay)))
        begun = time.monotonic()
        samples, kept = (outcome(Clip("a", str(path)), keep) for keep in (False, True))
        assert time.monotonic() - begun < LIMIT, replay
        if isinstance(samples, str):
            assert samples in CODES, replay
            assert kept in CODES or isinstance(kept, int), replay
            continue
        assert kept == samples, f"{replay}: what is whole is the same, kept or not"
        try:
            expected = len(ffmpeg_samples(path))
        except (av.error.FFmpegError, IndexError):  # a header that libsndfile understands, and FFmpeg does not
            assert form != AV, replay
            continue
        if form == "MP3" or subtype == "MP2":
            assert samples >= expected - MPEG_DELAY, replay
        elif form == AV:
            assert samples in (expected, expected + shift), f"{replay}: FFmpeg decodes {expected}"
        else:
            assert samples >= expected - max(abs(shift), 100 * (form in MORE)), f"{replay}: FFmpeg decodes {expected}"
