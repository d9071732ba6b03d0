"""`audio.edges`: segments see their recording, clips their mirror image; on a CPU, on a device, and in windows."""

from __future__ import annotations

import io
import json
import math
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hlfeat
from hlfeat.audio.clip import Clip
from hlfeat.config.config import Config
from hlfeat.config.loading import config_from_dict
from hlfeat.extraction import one_device
from hlfeat.extraction.extract import extract_clips
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.margins import margin_of
from tests import helpers
from tests.extraction.fake_cuda import FakeCuda, engines_on
from tests.extraction.runs import contents
from tests.extraction.test_streaming import CONFIGS, FEW, STACK

SMALL = Limits(long_samples=3000, window_samples=4000, window_frames=50)  # nearly every clip is long
LOG = {"kind": "logtbn", "median_filter": False, "append_filtered": False}
LOCAL = {
    "log": CONFIGS["log"],
    "relative log": {"frontend": {**FEW, "compression": "relative-log"}},
    "log-mel": CONFIGS["log-mel"],
    "spectrogram": CONFIGS["spectrogram"],
    "stack": {"frontend": {**FEW, "compression": LOG}, "stack": STACK},
    "pools": {"frontend": {"kind": "log-mel", "n_filters": 9}, "stack": [STACK[5], {**STACK[5], "kind": "max"}]},
}
ALL = {**CONFIGS, **LOCAL}


def config_of(name: str, edges: str, **audio: object) -> Config:
    return config_from_dict({**ALL[name], "audio": {"edges": edges, **audio}, "output": {"shard_size": 7}})


@cache
def extractor_of(name: str) -> Extractor:
    return hlfeat.build(config_of(name, "zeros")).eval()


def extract(
    config: Config,
    clips: list[Clip],
    out: Path,
    limits: Limits = DEFAULT_LIMITS,
    device: bool = False,
    workers: int = 1,
) -> hlfeat.FeatureStore:
    """Features of clips, on a CPU or on a device that is not there, none of which may fail."""
    options = Options(quiet=True, device="cpu", workers=workers, batch_seconds=2.0)
    with pytest.MonkeyPatch.context() as patch:
        if device:
            patch.setattr(one_device, "make_engine", engines_on(FakeCuda()))
        report = extract_clips(config, Inputs(clips), out, options, limits=limits)
    assert report.failures == []
    return hlfeat.FeatureStore(out)


def near(got: np.ndarray, want: np.ndarray, tolerance: float = 2e-5) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1, np.abs(want).max()))


def write(path: Path, samples: int, rate: int, seed: int = 0) -> np.ndarray:
    """Noise that gets louder: [T]."""
    x = np.random.default_rng(seed).standard_normal(samples) * np.linspace(0.05, 0.2, samples)
    soundfile.write(path, x.astype(np.float32), rate, subtype="FLOAT")
    return x.astype(np.float32)


segments_of = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1) | st.none()), min_size=1, max_size=6)


ENDS = [(0, None), (0, 0), (0.999, None), (0.05, 0.5)]


@settings(max_examples=settings.default.max_examples * 2 // 5)
@pytest.mark.parametrize("name", LOCAL)
@example(rate=44100, samples=40_000, segments=ENDS, limits=SMALL, device=False)
@example(rate=16000, samples=20_000, segments=ENDS, limits=DEFAULT_LIMITS, device=False)
@example(rate=11025, samples=20_000, segments=ENDS, limits=DEFAULT_LIMITS, device=True)
@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050, 48000]),
    samples=st.integers(1, 60_000),
    segments=segments_of,
    limits=st.sampled_from([DEFAULT_LIMITS, SMALL]),
    device=st.booleans(),
)
def test_with_context_a_segment_has_the_rows_of_the_whole(
    tmp_path_factory, name, device, rate, samples, segments, limits
):
    """Wherever it begins on the grid of frames, near the recording's ends too, in one piece and in windows."""
    tmp = tmp_path_factory.mktemp("context")
    write(tmp / "a.wav", samples, rate)
    extractor, path = extractor_of(name), str(tmp / "a.wav")
    divisor = math.gcd(rate, 16000)
    old, new = rate // divisor, 16000 // divisor
    grid = math.lcm(extractor.hop, new)  # on which a segment begins with a sample of the file and with a frame
    clips, rows = [Clip("whole", path)], {}
    for i, (begin, end) in enumerate(segments):
        units = int(begin * ((samples - 1) * new // old // grid))
        first = units * grid // new * old
        last = samples if end is None else first + 1 + int(end * (samples - first - 1))
        clips.append(Clip(str(i), path, first / rate, None if end is None else last / rate))
        rows[str(i)] = units * grid // extractor.hop, extractor.num_frames(-(-(last - first) * new // old))
    store = extract(config_of(name, "context"), clips, tmp / "out", limits, device)
    whole = store["whole"]
    for id_, (row, n) in rows.items():
        near(store[id_], whole[row : row + n])


@settings(max_examples=settings.default.max_examples * 2 // 5)
@pytest.mark.parametrize("name", ["log-mel", "pools"])
@example(first=1, samples=5000, limits=SMALL)
@given(first=st.integers(0, 6000), samples=st.integers(1, 9000), limits=st.sampled_from([DEFAULT_LIMITS, SMALL]))
def test_off_the_grid_the_recording_begins_with_zeros_up_to_it(tmp_path_factory, name, first, samples, limits):
    """A segment near the beginning, which is on no frame of its recording."""
    tmp, extractor = tmp_path_factory.mktemp("off"), extractor_of(name)
    x, gap = write(tmp / "a.wav", 16_000, 16000), -first % extractor.hop
    soundfile.write(tmp / "later.wav", np.pad(x, (gap, 0)), 16000, subtype="FLOAT")
    part = Clip("part", str(tmp / "a.wav"), first / 16000, (first + samples) / 16000)
    store = extract(config_of(name, "context"), [part, Clip("later", str(tmp / "later.wav"))], tmp / "out", limits)
    row = (first + gap) // extractor.hop
    near(store["part"], store["later"][row : row + extractor.num_frames(samples)])


@settings(max_examples=settings.default.max_examples * 2 // 5)
@pytest.mark.parametrize("name", ["logtbn", "pcen", "log", "log-mel", "stack", "instance"])
@example(lengths=[1, 2, 159, 160, 161, 20_000], limits=SMALL, device=False)
@example(lengths=[1, 2, 159, 160, 161, 20_000], limits=DEFAULT_LIMITS, device=True)
@given(
    lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=5),
    limits=st.sampled_from([DEFAULT_LIMITS, SMALL]),
    device=st.booleans(),
)
def test_mirrored_ends_are_those_of_numpy_pad(tmp_path_factory, name, lengths, limits, device):
    """Against the extractor, of clips that are padded with a margin of any excess, whose frames are cut away."""
    tmp, extractor = tmp_path_factory.mktemp("reflect"), extractor_of(name)
    waves = {str(i): write(tmp / f"{i}.wav", n, 16000, i) for i, n in enumerate(lengths)}
    clips = [Clip(i, str(tmp / f"{i}.wav")) for i in waves]
    store = extract(config_of(name, "reflect"), clips, tmp / "out", limits, device)
    for i, x in waves.items():
        near(store[i], mirrored(extractor, name, x))


def mirrored(extractor: Extractor, name: str, x: np.ndarray) -> np.ndarray:
    """The features of a clip with mirrored ends, by other means: [N, C, F]."""
    hop, margin = extractor.hop, margin_of(extractor).samples
    more = margin if name == "pcen" else margin + 3 * hop * extractor.stack.stride  # PCEN smooths from the margin on
    padded = torch.from_numpy(np.pad(x, more, mode="reflect" if len(x) > 1 else "edge"))[None]
    frontend = extractor.frontend
    first, n = more // frontend.hop, frontend.num_frames(len(x))
    with torch.inference_mode():
        y = frontend(padded)
        if name == "logtbn":  # the median is that of the clip's own frames; a new batch norm only divides
            y[:, 1] = y[:, 0] - y[:, 0, :, first : first + n].median(-1, keepdim=True).values
        if name == "instance":  # the stack looks at whole clips, and sees the clip alone
            y[:, 1] = y[:, 0] - y[:, 0, :, first : first + n].median(-1, keepdim=True).values
            return extractor.layers(y[..., first : first + n])[0].permute(2, 0, 1).numpy()
        rows = extractor.layers(y)[0].permute(2, 0, 1).numpy()
    return rows[more // hop : more // hop + extractor.num_frames(len(x))]


def test_a_median_is_that_of_the_segment_and_the_rest_of_its_recording(tmp_path):
    """What sees whole clips sees the segment alone; what is local, all that is around it."""
    write(tmp_path / "a.wav", 48_000, 16000)
    path = str(tmp_path / "a.wav")
    clips = [Clip("whole", path), Clip("part", path, 1, 2)]
    for limits in (DEFAULT_LIMITS, SMALL):
        store = extract(config_of("logtbn", "context"), clips, tmp_path / str(limits.long_samples), limits)
        part, whole = store["part"], store["whole"][100:200]
        near(part[:, 0], whole[:, 0])
        near(part[:, 1], part[:, 0] - np.sort(part[:, 0], 0)[49])
        assert np.abs(part[:, 1] - whole[:, 1]).max() > 0.01


def test_pcen_is_warmed_up_by_what_comes_before(tmp_path):
    """With zeros a segment begins as if it were loud: its first frame is the smoothed energy."""
    write(tmp_path / "a.wav", 64_000, 16000)
    clips = [Clip("whole", str(tmp_path / "a.wav")), Clip("part", str(tmp_path / "a.wav"), 2, 3)]
    off = {}
    for edges in ("zeros", "context"):
        store = extract(config_of("pcen", edges), clips, tmp_path / edges)
        off[edges] = np.abs(store["part"] - store["whole"][200:300])[:3].mean()
    assert off["context"] < 0.7 * off["zeros"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> list[Clip]:
    """Whole files and segments of many kinds, rates and channels, some silent, some of them failing."""
    folder = helpers.good_clips(tmp_path_factory.mktemp("mixed"), 5, longest=0.8)
    x = helpers.tone(3, 22050)
    x[22050 : 2 * 22050] = 0
    soundfile.write(folder / "silence.flac", x, 22050)
    whole = collect_inputs([str(folder)], io.BytesIO()).clips
    clips = []
    for clip in whole:
        clips += [clip] + [
            Clip(f"{clip.id} {i}", clip.path, start, end) for i, (start, end) in enumerate([(0, 0.02), (0.013, None)])
        ]
    silent = str(folder / "silence.flac")
    return [*clips, Clip("all zeros", silent, 1.1, 1.9), Clip("bad", silent, 2, 9), Clip("to 3.2 s", silent, 1.9, 3.2)]


def run(config: Config, clips: list[Clip], out: Path, limits: Limits = DEFAULT_LIMITS, workers: int = 1) -> Path:
    options = Options(quiet=True, device="cpu", workers=workers)
    assert [f["id"] for f in extract_clips(config, Inputs(clips), out, options, limits=limits).failures] == ["bad"]
    return out


def index_of(out: Path) -> dict[str, list[dict[str, object]]]:
    lines = {p.name: map(json.loads, p.read_text().splitlines()) for p in sorted(out.glob("shard-*.jsonl"))}
    return {name: [{**line, "crc32": 0} for line in index] for name, index in lines.items()}


@pytest.mark.parametrize("limits", [DEFAULT_LIMITS, SMALL])
@pytest.mark.parametrize("channels", ["mix", "each"])
def test_the_index_is_that_of_the_clips_alone(mixed, tmp_path, limits, channels):
    """Rows, shards, durations, silence, cut segments and failures, whatever the edges."""
    outs = {e: run(config_of("stack", e, channels=channels), mixed, tmp_path / e, limits) for e in MODES}
    want = index_of(outs["zeros"])
    for out in outs.values():
        assert index_of(out) == want
        silent = [id_ for p in out.glob("stats-*.json") for id_ in json.loads(p.read_text())["silent"]]
        assert {id_.partition("#")[0] for id_ in silent} == {"all zeros"}
        assert (out / "failures.jsonl").read_bytes() == (outs["zeros"] / "failures.jsonl").read_bytes()


MODES = ("zeros", "reflect", "context")


@pytest.mark.processes
@pytest.mark.parametrize("name", ["logtbn", "stack", "instance", "pcen", "log-mel"])
@pytest.mark.parametrize("edges", ["reflect", "context"])
def test_bytes_do_not_depend_on_batches_and_workers(mixed, tmp_path, name, edges):
    config = config_of(name, edges)
    want = contents(run(config, mixed, tmp_path / "want"))
    one_by_one = Limits(cpu_batch_samples=1, chunk_clips=1)
    assert contents(run(config, mixed, tmp_path / "alone", one_by_one)) == want
    assert contents(run(config, mixed, tmp_path / "workers", Limits(chunk_clips=3), workers=2)) == want


@pytest.mark.parametrize("name", ["logtbn", "stack", "instance"])
@pytest.mark.parametrize("edges", ["reflect", "context"])
def test_devices_and_windows_compute_the_same(mixed, tmp_path, name, edges):
    config, clips = config_of(name, edges, channels="each"), [clip for clip in mixed if clip.id != "bad"][-12:]
    want = extract(config, clips, tmp_path / "want")
    for i, (limits, device) in enumerate(((SMALL, False), (DEFAULT_LIMITS, True), (SMALL, True))):
        got = extract(config, clips, tmp_path / str(i), limits, device)
        for id_, y in want:
            near(got[id_], y, 5e-5)


def test_whole_files_have_the_bytes_of_zeros_with_context(mixed, tmp_path):
    clips = [clip for clip in mixed if not clip.is_segment]
    for name in ("stack", "logtbn"):
        want, got = (extract(config_of(name, e), clips, tmp_path / name / e) for e in ("zeros", "context"))
        for id_, y in want:
            assert got[id_].tobytes() == y.tobytes()


def test_segments_of_members_of_an_archive(tmp_path):
    write(tmp_path / "a.wav", 40_000, 22050)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.wav", "a.wav")
    (member,) = collect_inputs([str(tmp_path / "a.tar")], io.BytesIO()).clips
    for edges in MODES:
        clips = [
            Clip("of the file", str(tmp_path / "a.wav"), 0.4, 1),
            Clip("of the member", member.path, 0.4, 1, span=member.span),
        ]
        store = extract(config_of("stack", edges), clips, tmp_path / edges)
        assert store["of the file"].tobytes() == store["of the member"].tobytes()


def test_a_clip_that_is_not_finite_around_a_segment_fails_with_context_alone(tmp_path):
    x = write(tmp_path / "a.wav", 32_000, 16000)
    x[20_000] = np.inf
    soundfile.write(tmp_path / "a.wav", x, 16000, subtype="FLOAT")
    ends = {"before": (0.5, 1.2), "near": (0.5, 1.249), "after": (1.3, None), "within": (1, 2)}
    clips = [Clip(id_, str(tmp_path / "a.wav"), *times) for id_, times in ends.items()]
    for edges, failing in (("zeros", {"within"}), ("reflect", {"within"}), ("context", {"near", "within"})):
        for limits in (DEFAULT_LIMITS, SMALL):
            out = tmp_path / edges / str(limits.long_samples)
            options = Options(quiet=True, device="cpu", workers=1)
            report = extract_clips(config_of("log-mel", edges), Inputs(clips), out, options, limits=limits)
            assert {f["id"] for f in report.failures} == failing
            assert {f["code"] for f in report.failures} == {"non-finite"}
            for _, y in hlfeat.FeatureStore(out):
                assert np.isfinite(y).all()


def test_a_recording_that_was_cut_short_around_a_segment(tmp_path):
    """With --on-truncated keep, a segment before the break sees what is there, and nothing is missing of it."""
    write(tmp_path / "whole.wav", 32_000, 16000)
    data = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[:-4000])  # 1,000 samples of 4 bytes
    path, hop = str(tmp_path / "cut.wav"), extractor_of("pools").hop
    start, end = 5 * hop / 16000, 30_800 / 16000
    clips = [Clip("whole", path), Clip("part", path, start, end), Clip("beyond", path, start, 31_900 / 16000)]
    options = Options(quiet=True, device="cpu", workers=1, on_truncated="keep")
    for limits in (DEFAULT_LIMITS, SMALL):
        out = tmp_path / str(limits.long_samples)
        report = extract_clips(config_of("pools", "context"), Inputs(clips), out, options, limits=limits)
        assert report.failures == []
        store = hlfeat.FeatureStore(out)
        assert {id_ for id_ in store.ids() if "seconds_there" in store.record(id_)} == {"whole", "beyond"}
        for id_ in ("part", "beyond"):
            near(store[id_], store["whole"][5 : 5 + len(store[id_])])
