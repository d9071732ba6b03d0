"""What is read and put around a clip: mirrored ends against numpy's, and segments with the recording around them."""

from __future__ import annotations

import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlfeat
from hlfeat.audio import passes
from hlfeat.audio.clip import Clip
from hlfeat.audio.edges import Edges, part_of, read_extended, reflect, reflect_stream
from hlfeat.audio.passes import SharedPasses
from hlfeat.audio.reader import Reader, decode
from hlfeat.audio.resample import Resampler
from hlfeat.errors import ClipError
from hlfeat.inputs.collect import collect_inputs
from tests import helpers

RATE, SECONDS = 22050, 4


def ramp(n: int) -> np.ndarray:
    """Samples that all differ: [n]."""
    return np.arange(1, n + 1, dtype=np.float32)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), margin=st.integers(0, 60))
def test_mirrored_ends_are_numpys(lengths, margin):
    """Of clips shorter than the margin too, alone and in a batch."""
    rows = [ramp(n) * (i + 1) for i, n in enumerate(lengths)]
    batch = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(x) for x in rows], batch_first=True)
    together = reflect(batch, margin, torch.tensor(lengths))
    assert together.shape == (len(rows), 2 * margin + max(lengths))
    for x, y in zip(rows, together.numpy(), strict=True):
        want = np.pad(x, margin, mode="reflect" if len(x) > 1 else "edge")
        np.testing.assert_array_equal(y[: len(want)], want)
        np.testing.assert_array_equal(reflect(torch.from_numpy(x)[None], margin)[0].numpy(), want)


@given(n=st.integers(1, 60), margin=st.integers(1, 30), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_mirrored_in_chunks_with_the_margin_held_back(n, margin, cuts):
    x = torch.from_numpy(ramp(n))[None]
    bounds = [0, *sorted(min(c, n) for c in cuts), n]
    taken, given_back, most = 0, 0, max(b - a for a, b in pairwise(bounds))

    def chunks():
        nonlocal taken
        for a, b in pairwise(bounds):
            assert taken - max(0, given_back - margin) <= margin + 1 + most  # what is held, whatever the clip's length
            taken += b - a
            yield x[:, a:b]

    parts = []
    for y in reflect_stream(chunks(), margin):
        given_back += y.shape[1]
        parts.append(y)
    assert torch.equal(torch.cat(parts, 1), reflect(x, margin))


@given(
    n=st.integers(0, 30),
    first=st.integers(0, 35),
    count=st.integers(0, 35),
    cuts=st.lists(st.integers(0, 30), max_size=5),
)
def test_a_part_of_a_signal_in_chunks(n, first, count, cuts):
    x, bounds = torch.arange(n)[None], [0, *sorted(min(c, n) for c in cuts), n]
    rest = iter([x[:, a:b] for a, b in pairwise(bounds)])
    parts = list(part_of(rest, first, count))
    assert all(y.shape[1] for y in parts)
    assert torch.equal(torch.cat([x[:, :0], *parts], 1), x[:, first : first + count])
    assert next(rest, None) is None  # read to its end, where errors are


KINDS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "member": ("MP3", "MPEG_LAYER_III"),
}


@pytest.fixture(scope="module", params=KINDS)
def recording(request, tmp_path_factory) -> Clip:
    """A whole file of two channels, or a member of an archive."""
    folder = tmp_path_factory.mktemp("recording")
    form, subtype = KINDS[request.param]
    x = np.stack([helpers.tone(SECONDS, RATE), helpers.tone(SECONDS, RATE, 300, seed=1)], 1)
    path = folder / f"a.{form.lower()}"
    soundfile.write(path, x, RATE, format=form, subtype=subtype)
    if request.param != "member":
        return Clip("a", str(path))
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(path, "a.mp3")
    (clip,) = collect_inputs([str(folder / "a.tar")]).clips
    return clip


def segment(clip: Clip, start: float | None, end: float | None) -> Clip:
    return Clip("s", clip.path, start, end, span=clip.span)


TIMES = [(0, 0.5), (0.003, 0.5), (0.5, 1), (0.9, 2.1), (2.1, 3), (3, 3.99), (3.99, None), (3.7, SECONDS + 0.2)]


@pytest.mark.parametrize("around", [(300, 500), (5000, 30_000), (400_000, 400_000)])
@pytest.mark.parametrize(("channels", "tail"), [("mix", None), ("each", None), ("mix", 400)])
def test_segments_are_read_with_what_is_around_them(recording, around, channels, tail, monkeypatch):
    """Zeros in front of the recording, nothing behind it; neighbours share a pass over files that are not sought.

    Where little of the pass is kept, a file is opened again for what is before a segment.
    """
    if tail is not None:
        monkeypatch.setattr(passes, "_TAIL", tail)
        monkeypatch.setattr("hlfeat.audio.reader.BLOCK_SAMPLES", 2000)
    whole, shared = decode(recording, channels).samples, SharedPasses()
    for start, end in TIMES:
        first, stop = round(start * RATE), min(whole.shape[1], round((end or 99) * RATE))
        with Reader(segment(recording, start, end), channels, passes=shared, around=lambda *_: around) as reader:
            promised = reader.samples, reader.before, reader.after
            x = np.concatenate(list(reader.blocks()), 1)
        after = min(around[1], whole.shape[1] - stop) if end is not None else 0
        want = np.pad(whole, ((0, 0), (around[0], 0)))[:, first : around[0] + stop + after]
        np.testing.assert_array_equal(x, want, err_msg=f"{start} to {end}")
        assert (reader.before, reader.after) == (around[0], after)
        assert promised == (stop - first, around[0], after) or promised[0] is None
    shared.close()


def test_what_is_around_shares_the_pass_over_the_file(recording, monkeypatch):
    opened, before = [], hlfeat.audio.reader.open_decoder
    monkeypatch.setattr("hlfeat.audio.reader.open_decoder", lambda *a: opened.append(a) or before(*a))
    shared = SharedPasses()
    for i in range(8):
        clip = segment(recording, i * SECONDS / 8, (i + 1) * SECONDS / 8)
        with Reader(clip, passes=shared, around=lambda *_: (4000, 4000)) as reader:
            assert sum(block.shape[1] for block in reader.blocks()) == 4000 + RATE * SECONDS // 8 + reader.after
    shared.close()
    if recording.path.endswith((".mp3", ".ogg", ".tar")):
        assert len(opened) == 1


@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 44101, 96000]),
    margin=st.integers(1, 50),
    grid=st.sampled_from([1, 7, 160, 480]),
    first=st.integers(0, 60_000),
    samples=st.integers(1, 5000),
)
def test_resampled_with_its_margin_a_segment_is_a_part_of_the_whole(
    tmp_path_factory, rate, margin, grid, first, samples
):
    """Where it begins on a sample of the resampled recording, to rounding; else it is as long as it has to be."""
    resampler = Resampler(16000)
    edges = Edges(resampler, "context", margin * grid, grid)
    old, new, _ = resampler.ratio(rate)
    if first % 3:
        first = first // old * old
    total = first + samples + 7000
    path = tmp_path_factory.mktemp("rates") / "a.wav"
    x = np.random.default_rng(samples).standard_normal(total).astype(np.float32) * 0.1
    soundfile.write(path, x, rate, subtype="FLOAT")
    whole = resampler(torch.from_numpy(x)[None], rate)[0].numpy()
    y, margins, length = read_extended(Clip("s", str(path), first / rate, (first + samples) / rate), "mix", edges)
    assert length == -(-samples * new // old)
    assert y.shape == (1, margins.before + length + margins.after)
    assert margins.before % grid == 0
    assert margins.before <= edges.margin
    assert margins.after <= edges.margin
    begin = first * new // old
    assert margins.before == min(edges.margin, -(-first * new // old // grid) * grid)
    if first % old == 0:
        lead = min(begin, margins.before)  # in front of it the resampler rings, if that is on no row of the recording
        want = whole[begin - lead : begin + length + margins.after]
        np.testing.assert_allclose(y[0, margins.before - lead :].numpy(), want, rtol=0, atol=2e-6)
        assert margins.after in (edges.margin, len(whole) - begin - length)


@pytest.mark.parametrize("where", [100, 15_000, 24_500])
def test_a_sample_around_a_segment_that_is_not_finite_fails_it(tmp_path, where):
    x = helpers.tone(2, 16000)
    x[where] = np.nan
    soundfile.write(tmp_path / "a.wav", x, 16000, subtype="FLOAT")
    clip = Clip("s", str(tmp_path / "a.wav"), 1, 1.5)
    for edges in (Edges(Resampler(16000), "zeros", 1600, 160), Edges(Resampler(16000), "reflect", 1600, 160)):
        assert read_extended(clip, "mix", edges).samples.isfinite().all()
    edges = Edges(Resampler(16000), "context", 1600, 160)
    if where == 100:  # too far away
        assert read_extended(clip, "mix", edges).samples.isfinite().all()
        return
    with pytest.raises(ClipError, match=f"sample {where} is not a finite number, outside of the segment") as caught:
        read_extended(clip, "mix", edges)
    assert caught.value.code == "non-finite"


@pytest.mark.parametrize("end", [1.0, 1.3])
def test_a_recording_that_breaks_off_around_a_segment(tmp_path, end):
    """What is there is used, if that is wanted; nothing is missing of a segment before the break."""
    x = helpers.tone(1.2, 16000)
    soundfile.write(tmp_path / "a.wav", x, 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = (len(data) + 10**6).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    clip = Clip("s", str(tmp_path / "a.wav"), 0.5, end)
    with Reader(clip, keep_truncated=True, around=lambda *_: (1600, 8000)) as reader:
        got = np.concatenate(list(reader.blocks()), 1)
    np.testing.assert_allclose(got[0], x[8000 - 1600 :], atol=1e-4)
    assert (reader.before, reader.after) == (1600, 3200 if end == 1.0 else 0)
    assert (reader.shortfall is None) == (end == 1.0)
    with pytest.raises(ClipError, match="the header promises"):
        decode(clip)


def test_whole_files_have_nothing_around_them(tmp_path):
    soundfile.write(Path(tmp_path / "a.wav"), helpers.tone(0.1, 16000), 16000)
    edges = Edges(Resampler(16000), "context", 1600, 160)
    y, margins, length = read_extended(Clip("a", str(tmp_path / "a.wav")), "mix", edges)
    assert (y.shape[1], margins, length) == (1600, (0, 0), 1600)
