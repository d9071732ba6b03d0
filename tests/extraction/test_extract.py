"""The run as a whole: the two promises, the same bytes always, and going on after it was stopped."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlfeat
from hlfeat.audio import reader, sndfile
from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import Reader
from hlfeat.audio.resample import Resampler
from hlfeat.config.loading import load_config
from hlfeat.errors import ClipError, InterruptedRunError, OutputError, TooManyFailuresError, UsageError
from hlfeat.extraction import clip_loader, prefetch
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.cpu_engine import CpuEngine
from hlfeat.extraction.events import ClipInfo, FailedClip, LoadedClip
from hlfeat.extraction.options import Limits, Options
from hlfeat.extraction.worker_pool import ThreadPool
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.nn import device
from hlfeat.storage.output_dir import OutputDir
from tests import helpers
from tests.extraction.runs import CHEAP, contents, run


def one_by_one(folder: Path, config: hlfeat.Config) -> dict[str, np.ndarray]:
    """The plain loop that the pipeline must equal: a clip at a time, no padding, no batches."""
    extractor, resampler = hlfeat.build(config).eval(), Resampler(config.audio.sample_rate)
    features = {}
    for clip in collect_inputs([str(folder)], io.BytesIO()).clips:
        wave = reader.decode(clip, config.audio.channels)
        with torch.no_grad():
            y = extractor(resampler(torch.from_numpy(wave.samples), wave.sample_rate)[:1])
        features[clip.id] = y[0].permute(2, 0, 1).numpy()
    return features


@given(
    n=st.integers(1, 9),
    batch_seconds=st.floats(0.05, 8),
    workers=st.integers(1, 5),
    shard=st.sampled_from(["1", "3", "100kB", "1GB"]),
    form=st.sampled_from(["npy", "pt"]),
)
def test_equals_a_plain_loop_whatever_the_settings(tmp_path_factory, n, batch_seconds, workers, shard, form):
    tmp = tmp_path_factory.mktemp("loop")
    folder = helpers.good_clips(tmp / "clips", n, longest=1.0)
    overrides = [f"output.shard_size={shard}", f"output.format={form}"]
    options = Options(quiet=True, batch_seconds=batch_seconds, workers=workers)
    report = run(folder, tmp / "out", *overrides, options=options)
    assert (report.clips, report.failures) == (n, [])
    want = one_by_one(folder, load_config(overrides=CHEAP))
    store = hlfeat.FeatureStore(tmp / "out")
    assert store.ids == list(want)
    for id_, y in store:
        assert y.shape == want[id_].shape
        assert np.abs(y - want[id_]).max() <= 1e-5 * np.abs(want[id_]).max()


def test_index_and_files_are_as_documented(clips, tmp_path):
    finished = []
    run(clips, tmp_path / "out", "output.shard_size=5", finished_shard=finished.append)
    out = tmp_path / "out"
    names = [name for i in range(3) for name in (f"shard-{i:05d}.jsonl", f"shard-{i:05d}.npy", f"stats-{i:05d}.json")]
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "hlfeat.yaml", "failures.jsonl", "report.json"])
    assert finished == [out / f"shard-{i:05d}.npy" for i in range(3)]
    seen = 0
    for i in range(3):
        data = np.load(out / f"shard-{i:05d}.npy", mmap_mode="r")
        records = [json.loads(line) for line in (out / f"shard-{i:05d}.jsonl").read_text().splitlines()]
        assert data.shape == (sum(r["frames"] for r in records), 2, 8)
        row = 0
        for r in records:
            assert (r["shard"], r["row"]) == (f"shard-{i:05d}.npy", row)
            info = soundfile.info(r["path"])
            assert r["sample_rate"] == info.samplerate
            assert r["duration"] == pytest.approx(info.duration)
            assert r["path"].endswith(r["id"])
            row += r["frames"]
            seen += 1
    assert seen == 12
    report = json.loads((out / "report.json").read_text())
    assert report["clips"] == 12
    assert report["failures"] == 0
    assert {"decode", "resample", "compute", "write", "total"} <= set(report["seconds"])
    assert report["device"].startswith("cpu")
    assert report["peak_memory_bytes"] > 0


def test_every_input_is_in_the_index_or_among_the_failures(clips, tmp_path):
    codes = helpers.broken_clips(clips / "e-broken")
    report = run(clips, tmp_path / "out", "output.shard_size=4")
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert {f["id"]: f["code"] for f in failures} == {f"e-broken/{name}": code for name, code in codes.items()}
    assert all(f["message"] and f["path"] for f in failures)
    store = hlfeat.FeatureStore(tmp_path / "out")
    assert len(store) == 12
    assert report.failures == failures
    for _, y in store:
        assert np.isfinite(y).all()


def test_a_clip_that_fails_while_it_is_computed_takes_no_other_with_it(clips, tmp_path):
    loud = clips / "d0/loud.wav"
    soundfile.write(loud, np.full(8000, 1e30, np.float32), 16000, subtype="FLOAT")
    want = run(clips, tmp_path / "a", options=Options(quiet=True))
    assert [(f["id"], f["code"]) for f in want.failures] == [("d0/loud.wav", "non-finite")]
    loud.unlink()
    run(clips, tmp_path / "b", options=Options(quiet=True))
    a, b = hlfeat.FeatureStore(tmp_path / "a"), hlfeat.FeatureStore(tmp_path / "b")
    assert a.ids == b.ids
    for id_ in a.ids:
        np.testing.assert_allclose(a[id_], b[id_], atol=1e-5)


def test_float16_that_cannot_hold_a_feature_is_a_failure_not_an_infinity(tmp_path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.2, 16000), 16000)
    weights = hlfeat.build({"frontend": {"n_filters": 8}}).state_dict()
    weights["frontend.compression.TBN.bn.bias"][:] = 1e6
    torch.save(weights, tmp_path / "w.pt")
    inputs = Inputs([Clip("a.wav", str(tmp_path / "a.wav"))])
    options = Options(quiet=True, weights=tmp_path / "w.pt")
    half = ["frontend.conv_win_factor=4.77", "frontend.stride_factor=1", "output.dtype=float16"]
    report = run(inputs, tmp_path / "out", *half, options=options)
    assert [f["code"] for f in report.failures] == ["non-finite"]
    assert "float16" in report.failures[0]["message"]


def test_the_same_bytes_for_any_number_of_workers_and_every_time(clips, tmp_path):
    helpers.broken_clips(clips / "broken")
    outs = []
    for i, workers in enumerate((1, 1, 3, 8)):
        outs.append(tmp_path / str(i))
        run(clips, outs[-1], "output.shard_size=4", options=Options(quiet=True, batch_seconds=2, workers=workers))
    first = contents(outs[0])
    assert len(first) == 3 * 4 + 2
    for out in outs[1:]:
        assert contents(out) == first


@pytest.mark.processes
@pytest.mark.parametrize("form", ["npy", "pt"])
def test_stopped_anywhere_and_resumed_gives_the_same_bytes(clips, tmp_path, form):
    helpers.broken_clips(clips / "broken")
    overrides = ["output.shard_size=3", f"output.format={form}"]
    run(clips, tmp_path / "whole", *overrides)
    want = contents(tmp_path / "whole")
    out, stops = tmp_path / "out", 0
    for patience in range(1, 200, 9):
        asked = []

        def stopped(asked: list[int] = asked, patience: int = patience) -> bool:
            asked.append(1)
            return len(asked) > patience

        try:
            run(clips, out, *overrides, options=Options(quiet=True, batch_seconds=2, workers=2), stopped=stopped)
            break
        except InterruptedRunError:
            stops += 1
            assert not list(out.glob("*.tmp"))
    assert stops >= 3
    assert contents(out) == want


def test_a_finished_run_opens_no_audio_and_keeps_its_failures(clips, tmp_path, monkeypatch):
    helpers.broken_clips(clips / "broken")
    first = run(clips, tmp_path / "out")
    want = contents(tmp_path / "out")
    monkeypatch.setattr(clip_loader, "Reader", lambda *a: pytest.fail("opened audio"))
    again = run(clips, tmp_path / "out")
    assert (again.clips, again.clips_before) == (0, 12)
    assert again.failures == first.failures
    before, now = first.as_dict(), again.as_dict()
    assert now["hours"] == pytest.approx(before["hours_this_run"])
    assert before["hours"] == before["hours_this_run"] > now["hours_this_run"] == 0
    assert contents(tmp_path / "out") == want


def test_inputs_as_on_the_command_line(clips, tmp_path):
    run(clips, tmp_path / "a")
    config = hlfeat.load_config("eleaf-8g-opt", CHEAP)
    hlfeat.extract(config, [clips], str(tmp_path / "b"), hlfeat.Options(quiet=True))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_more_clips_are_added_to_what_is_there(clips, tmp_path):
    inputs = collect_inputs([str(clips)], io.BytesIO())
    (tmp_path / "bad.wav").touch()
    bad = Clip("x/bad.wav", str(tmp_path / "bad.wav"))
    run(Inputs([*inputs.clips[:5], bad]), tmp_path / "out")
    report = run(Inputs(inputs.clips[5:]), tmp_path / "out")
    assert (report.clips, report.clips_before) == (7, 5)
    assert hlfeat.FeatureStore(tmp_path / "out").ids == [c.id for c in inputs.clips]
    assert [f["id"] for f in report.failures] == ["x/bad.wav"]  # not an input this time, but not forgotten
    assert run(Inputs(inputs.clips), tmp_path / "out").failures == []  # all that the folder has is an input


def test_another_configuration_is_refused_or_overwrites(clips, tmp_path):
    run(clips, tmp_path / "out", "output.shard_size=2")
    (tmp_path / "out/mine.txt").write_text("keep")
    (tmp_path / "out/shard-00000.npy.tmp").write_text("left by a killed run")
    with pytest.raises(UsageError, match=r"another configuration \(seed, output.shard_size differ\)|seed"):
        run(clips, tmp_path / "out", "seed=3")
    report = run(clips, tmp_path / "out", "seed=3", options=Options(quiet=True, overwrite=True))
    assert report.clips == 12
    assert (tmp_path / "out/mine.txt").read_text() == "keep"
    assert len(list((tmp_path / "out").glob("shard-*"))) == 2


def test_files_that_are_not_hlfeats_are_not_touched(clips, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "shard-00000.npy").write_text("somebody's")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"has shard-00000\.npy but no hlfeat\.yaml"):
            run(clips, out, options=Options(quiet=True, overwrite=overwrite))
    assert (out / "shard-00000.npy").read_text() == "somebody's"
    run(clips, tmp_path / "mine")
    (tmp_path / "mine/shard-00009.pt").write_text("odd")
    with pytest.raises(UsageError, match="another configuration"):
        run(clips, tmp_path / "mine", "seed=4")
    assert (tmp_path / "mine/shard-00009.pt").exists()


def test_another_file_under_the_id_of_a_finished_clip(clips, tmp_path, caplog):
    inputs = collect_inputs([str(clips)], io.BytesIO())
    run(inputs, tmp_path / "out")
    first = inputs.clips[0]
    soundfile.write(tmp_path / "other.wav", helpers.tone(1, 8000), 8000)
    with pytest.raises(UsageError, match=r"has the id .* from .*, not from .*other\.wav"):
        run(Inputs([Clip(first.id, str(tmp_path / "other.wav"))]), tmp_path / "out")
    Path(first.path).write_bytes((tmp_path / "other.wav").read_bytes())
    run(inputs, tmp_path / "out")
    assert "1 finished clip changed since; with the option update what changed is computed again" in caplog.text


def test_update_redoes_what_has_changed_in_its_place(clips, tmp_path):
    """A change that keeps every length gives the directory that a run from nothing gives, stopped or not."""
    out, size = tmp_path / "out", "output.shard_size=3"
    inputs = collect_inputs([str(clips)], io.BytesIO())
    run(inputs, out, size)
    before = contents(out)
    for i in (4, 10):
        path = inputs.clips[i].path
        info = soundfile.info(path)
        x, rate = soundfile.read(path)
        soundfile.write(path, x[::-1], rate, format=info.format, subtype=info.subtype)
    run(inputs, tmp_path / "want", size)
    want = contents(tmp_path / "want")
    for patience in (1, 4, 10**6):
        asked = []
        try:
            stopped = lambda a=asked, n=patience: (a.append(1), len(a) > n)[1]  # noqa: E731
            report = run(inputs, out, size, options=Options(quiet=True, update=True, workers=1), stopped=stopped)
        except InterruptedRunError:
            continue
    assert report.clips > 0
    assert contents(out) == want
    assert contents(out) != before
    again = run(inputs, out, size, options=Options(quiet=True, update=True))
    assert (again.clips, again.clips_before) == (0, 12)


def test_update_does_not_lose_clips_that_are_no_inputs(clips, tmp_path):
    inputs = collect_inputs([str(clips)], io.BytesIO())
    run(inputs, tmp_path / "out")
    want = contents(tmp_path / "out")
    first = inputs.clips[0]
    soundfile.write(first.path, helpers.tone(1, 8000), 8000)
    with pytest.raises(UsageError, match=r"update: .* would lose .*, which shares a shard"):
        run(Inputs([first]), tmp_path / "out", options=Options(quiet=True, update=True))
    assert contents(tmp_path / "out") == want


def test_a_bad_row_that_was_mended(clips, tmp_path):
    names = sorted(str(path) for path in clips.rglob("*") if path.is_file() and "\n" not in path.name)[:4]
    tables = [tmp_path / "first.csv", tmp_path / "second.csv"]
    tables[0].write_text(f"path,start\n{names[0]},\n{names[1]},soon\n")
    tables[1].write_text(f"path,start\n{names[2]},\n{names[3]},later\n")
    out = tmp_path / "out"
    for table in tables:
        inputs = collect_inputs([str(table)])
        codes = [(f["code"], f["path"]) for f in run(inputs, out).failures]
    assert codes == [("bad-row", names[3]), ("bad-row", names[1])]
    tables[0].write_text(f"path,start\n{names[0]},\n{names[1]},0\n")
    again = collect_inputs([str(tables[0])])
    assert len(run(again, out).failures) == 2  # not asked to try again
    (left,) = run(again, out, options=Options(quiet=True, retry_failed=True)).failures
    assert left["message"] == f"{tables[1]}:3: expected start in seconds, from 0, got 'later'"
    assert len(hlfeat.FeatureStore(out)) == 3


def test_retry_failed(clips, tmp_path):
    codes = helpers.broken_clips(clips / "broken")
    out = tmp_path / "out"
    run(clips, out, "output.shard_size=5")
    soundfile.write(clips / "broken/nan.wav", helpers.tone(1, 8000), 8000)
    assert len(run(clips, out, "output.shard_size=5").failures) == len(codes)
    asked = []
    retry = Options(quiet=True, retry_failed=True)
    with pytest.raises(InterruptedRunError):
        run(clips, out, "output.shard_size=5", options=retry, stopped=lambda: (asked.append(1), len(asked) > 8)[1])
    report = run(clips, out, "output.shard_size=5", options=retry)
    assert {f["id"] for f in report.failures} == {f"broken/{name}" for name in codes if name != "nan.wav"}
    store = hlfeat.FeatureStore(out)
    assert len(store) == 13
    assert store.ids[-1] == "broken/nan.wav"


def test_a_failure_whose_file_is_gone(clips, tmp_path):
    """It is forgotten, unless it is an input still."""
    (clips / "bad.wav").write_bytes(b"")
    (clips / "other.wav").write_bytes(b"")
    retry, out = Options(quiet=True, retry_failed=True), tmp_path / "out"
    assert len(run(clips, out).failures) == 2
    (clips / "bad.wav").unlink()
    assert [f["id"] for f in run(clips, out).failures] == ["other.wav"]
    missing = Inputs([Clip("bad.wav", str(clips / "bad.wav"))])
    for options in (Options(quiet=True), retry):
        assert [f["id"] for f in run(missing, out, options=options).failures] == ["bad.wav", "other.wav"]


@pytest.mark.processes
@pytest.mark.parametrize("config", ["eleaf-8g-opt", "eleaf-pcen", "log-mel"])
@pytest.mark.parametrize("form", ["npy", "pt"])
def test_long_clips_are_computed_piece_by_piece(tmp_path, computer, config, form):
    """Among short ones, with a channel each, at another rate, and with a bad end: as if they were short."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, seconds, rate in (("a", 0.5, 16000), ("b", 9, 16000), ("c", 8, 22050), ("d", 0.4, 8000), ("f", 7, 16000)):
        soundfile.write(folder / f"{name}.flac", rng.uniform(-0.5, 0.5, (int(seconds * rate), 2)), rate)
    x = rng.uniform(-0.5, 0.5, (100_000, 2)).astype(np.float32)
    x[-5] = np.nan
    soundfile.write(folder / "e.wav", x, 16000, subtype="FLOAT")
    overrides = [f"output.format={form}", "audio.channels=each", "output.shard_size=5"]
    run(folder, tmp_path / "want", *overrides, config=config)
    limits = Limits(long_samples=50_000, window_samples=20_000)
    report = run(folder, tmp_path / "out", *overrides, config=config, limits=limits)
    assert [(f["id"], f["code"]) for f in report.failures] == [("e.wav", "non-finite")]
    want, found = hlfeat.FeatureStore(tmp_path / "want"), hlfeat.FeatureStore(tmp_path / "out")
    assert found.ids == want.ids
    for id_, y in want:
        assert {**found.record(id_), "crc32": 0} == {**want.record(id_), "crc32": 0}
        np.testing.assert_allclose(found[id_], y, atol=3e-5 * np.abs(y).max())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in (tmp_path / "want").iterdir())


def test_a_stream_that_does_not_say_how_long_it_is(tmp_path):
    """A FLAC from a pipe, long enough to be computed piece by piece."""
    soundfile.write(tmp_path / "a.flac", helpers.tone(5, 16000), 16000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # the total number of samples, 36 bits of STREAMINFO
    data[22:26] = bytes(4)
    (tmp_path / "b.flac").write_bytes(data)
    inputs = Inputs([Clip(n, str(tmp_path / n)) for n in ("a.flac", "b.flac")])
    assert run(inputs, tmp_path / "out", limits=Limits(long_samples=20_000)).failures == []
    store = hlfeat.FeatureStore(tmp_path / "out")
    assert np.array_equal(store["a.flac"], store["b.flac"])


@pytest.mark.parametrize("config", ["eleaf-8g-opt", "eleaf-pcen", "log-mel", "eleaf-default"])
def test_on_a_cpu_neither_batches_nor_threads_change_a_byte(tmp_path, config):
    """Clips of all lengths, alone, in chunks and in batches, on one thread or more."""
    folder = helpers.good_clips(tmp_path / "clips", 14, longest=2.5)
    results = []
    for chunk, batch, workers, seconds in ((1, 1, 1, 64), (32, 1 << 18, 3, 1), (5, 1 << 15, 2, 9)):
        limits = Limits(chunk_clips=chunk, chunk_bytes=1 << 40, cpu_batch_samples=batch)
        out = tmp_path / f"{chunk}"
        options = Options(quiet=True, batch_seconds=seconds, workers=workers)
        run(folder, out, config=config, options=options, limits=limits)
        results.append(contents(out))
    assert results[0] == results[1] == results[2]


def test_resuming_after_a_failure_in_computing_gives_the_same_bytes(tmp_path):
    """A clip that fails while it is computed had its place in a shard's plan; a resumed run must plan alike."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(12):
        x = helpers.tone(0.3 + 0.1 * i, 16000, 200 + 30 * i) * (1e25 if i in (1, 5, 6) else 1)
        soundfile.write(folder / f"c{i:02d}.wav", x.astype(np.float32), 16000, subtype="FLOAT")
    size = "output.shard_size=2"
    clip_by_clip = Options(quiet=True, batch_seconds=0.01)  # a failure is recorded well before its shard is finished
    run(folder, tmp_path / "whole", size, options=clip_by_clip)
    want = contents(tmp_path / "whole")
    stops = 0
    for patience in range(1, 30):
        out, asked = tmp_path / str(patience), []
        try:
            stopped = lambda a=asked, n=patience: (a.append(1), len(a) > n)[1]  # noqa: E731
            run(folder, out, size, options=clip_by_clip, stopped=stopped)
        except InterruptedRunError:
            stops += 1
            run(folder, out, size, options=clip_by_clip)
        assert contents(out) == want
    assert stops > 10


def test_an_index_that_cannot_be_read_is_not_called_damaged(clips, tmp_path):
    run(clips, tmp_path / "out")
    index = tmp_path / "out/shard-00000.jsonl"
    index.rename(tmp_path / "away")
    index.mkdir()
    with pytest.raises(OutputError, match=r"shard-00000\.jsonl: cannot be read: Is a directory$"):
        run(clips, tmp_path / "out")


@pytest.mark.parametrize("damage", ["gone", "short", "index", "failures", "yaml"])
def test_a_damaged_directory_is_noticed(clips, tmp_path, damage):
    out = tmp_path / "out"
    run(clips, out, "output.shard_size=5")
    shard = out / "shard-00001.npy"
    if damage == "gone":
        shard.unlink()
    elif damage == "short":
        shard.write_bytes(shard.read_bytes()[:-8])
    else:
        name = {"index": "shard-00002.jsonl", "failures": "failures.jsonl", "yaml": "hlfeat.yaml"}[damage]
        (out / name).write_text("{}\n" if damage != "yaml" else "[" * 5000)
    with pytest.raises(OutputError, match="damaged"):
        run(clips, out, "output.shard_size=5")


def test_a_folder_that_is_moved_away_while_it_is_written(clips, tmp_path):
    out = tmp_path / "out"

    def move(path: Path) -> None:
        out.rename(tmp_path / "moved")
        out.mkdir()

    with pytest.raises(OutputError, match="was removed or moved away"):
        run(clips, out, "output.shard_size=5", finished_shard=move)
    assert list(out.iterdir()) == []


def test_two_runs_on_one_folder_the_second_is_refused(clips, tmp_path):
    with OutputDir(tmp_path / "out"), pytest.raises(OutputError, match="another run is writing here"):
        run(clips, tmp_path / "out")
    run(clips, tmp_path / "out")


def test_on_error_stop_and_max_failures(clips, tmp_path):
    codes = helpers.broken_clips(clips / "broken")
    with pytest.raises(TooManyFailuresError, match=r"on_error: stopped at .*: "):
        run(clips, tmp_path / "a", options=Options(quiet=True, on_error="stop"))
    with pytest.raises(TooManyFailuresError, match="more than 3 clips failed"):
        run(clips, tmp_path / "b", options=Options(quiet=True, max_failures=3))
    assert len((tmp_path / "b/failures.jsonl").read_text().splitlines()) == 4
    run(clips, tmp_path / "b", options=Options(quiet=True, max_failures=len(codes)))  # resumes


def test_each_channel_is_an_entry_of_its_own(tmp_path):
    x = np.stack([helpers.tone(0.4, 16000, 200), helpers.tone(0.4, 16000, 900)], 1)
    soundfile.write(tmp_path / "a.wav", x, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", x[:, 1], 16000, subtype="FLOAT")
    inputs = Inputs([Clip(n, str(tmp_path / n)) for n in ("a.wav", "b.wav")])
    report = run(inputs, tmp_path / "out", "audio.channels=each", "output.shard_size=1")
    assert report.clips == 3
    store = hlfeat.FeatureStore(tmp_path / "out")
    assert store.ids == ["a.wav#0", "a.wav#1", "b.wav#0"]
    assert [store.record(i)["channel"] for i in store.ids] == [0, 1, 0]
    np.testing.assert_allclose(store["a.wav#1"], store["b.wav#0"], atol=1e-5)
    assert np.abs(store["a.wav#0"] - store["a.wav#1"]).max() > 0.1
    assert run(inputs, tmp_path / "out", "audio.channels=each", "output.shard_size=1").clips == 0


@pytest.fixture(params=["cpu", "device"])
def computer(request, monkeypatch):
    """Both ways of computing; that of other devices on the CPU too."""
    kind = {"cpu": CpuEngine, "device": BatchEngine}[request.param]
    if request.param == "device":
        monkeypatch.setattr("hlfeat.extraction.one_device.make_engine", kind)
    return kind


def test_out_of_memory_halves_the_batch(clips, tmp_path, monkeypatch, computer):
    run(clips, tmp_path / "a", options=Options(quiet=True))
    sizes = tmp_path / "sizes"  # a file, as the CPU's batches are computed in other processes
    forward = computer._forward

    def small(self, waveforms, *rate):
        with open(sizes, "a") as f:
            print(len(waveforms), file=f)
        if len(waveforms) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, waveforms, *rate)

    monkeypatch.setattr(computer, "_forward", small)
    run(clips, tmp_path / "b", options=Options(quiet=True))
    assert max(map(int, sizes.read_text().split())) > 1
    a, b = hlfeat.FeatureStore(tmp_path / "a"), hlfeat.FeatureStore(tmp_path / "b")
    assert a.ids == b.ids
    for id_ in a.ids:
        np.testing.assert_allclose(a[id_], b[id_], atol=1e-5)

    def never(self, waveforms, *rate):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(computer, "_forward", never)
    report = run(clips, tmp_path / "c")
    assert {f["code"] for f in report.failures} == {"out-of-memory"}
    assert len(report.failures) == 12


def test_batches_on_a_device_equal_clip_by_clip(clips, tmp_path, monkeypatch):
    helpers.broken_clips(clips / "broken")
    for config in ("eleaf-8g-opt", "eleaf-pcen", "log-mel"):
        options = Options(quiet=True, batch_seconds=5)
        outs = [tmp_path / f"{config}-{i}" for i in range(2)]
        run(clips, outs[0], "output.shard_size=5", config=config, options=options)
        with monkeypatch.context() as patch:
            patch.setattr("hlfeat.extraction.one_device.make_engine", BatchEngine)
            run(clips, outs[1], "output.shard_size=5", config=config, options=options)
        a, b = map(hlfeat.FeatureStore, outs)
        assert a.ids == b.ids
        assert all({**a.record(i), "crc32": 0} == {**b.record(i), "crc32": 0} for i in a.ids)
        assert (outs[0] / "failures.jsonl").read_bytes() == (outs[1] / "failures.jsonl").read_bytes()
        for id_, y in a:
            np.testing.assert_allclose(b[id_], y, atol=2e-5 * np.abs(y).max())


def test_on_a_device_stopped_anywhere_and_resumed_gives_the_same_bytes(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("hlfeat.extraction.one_device.make_engine", BatchEngine)
    test_stopped_anywhere_and_resumed_gives_the_same_bytes(clips, tmp_path, "npy")


@pytest.mark.parametrize("where", ["Reader", "SoundFile"])
def test_no_more_files_is_no_clips_failure(clips, tmp_path, monkeypatch, where):
    """The run ends, and goes on when there are some."""
    full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def opened(*_):
        raise full

    with monkeypatch.context() as patch:
        if where == "Reader":
            patch.setattr(clip_loader, "Reader", opened)
        else:  # libsndfile opens nothing and does not say why; nor can we
            patch.setattr(sndfile, "sound_source", lambda clip: nullcontext("nowhere.wav"))
            patch.setattr(sndfile, "open", opened, raising=False)
        with pytest.raises(OutputError, match="too many open files: raise the limit"):
            run(clips, tmp_path / "out")
    assert not (tmp_path / "out/failures.jsonl").read_bytes()
    assert run(clips, tmp_path / "out").clips == 12


def test_a_reader_that_raises_anything_fails_one_clip(clips, tmp_path, monkeypatch):
    def moody(clip, *rest):
        if clip.id.endswith("4.mp3"):
            raise RuntimeError("disk on fire")
        return Reader(clip, *rest)

    monkeypatch.setattr(clip_loader, "Reader", moody)
    report = run(clips, tmp_path / "out")
    assert report.clips == 11
    assert [(f["code"], f["message"]) for f in report.failures] == [("unreadable", "RuntimeError: disk on fire")]


def test_a_clip_that_changes_while_it_is_read(tmp_path, monkeypatch):
    """A short one has the time from before it was read, so that --update sees it; a long one, read twice, fails."""
    path = tmp_path / "a.wav"
    clip = Clip("a.wav", str(path))

    def write(samples: int, time: int) -> None:
        soundfile.write(path, helpers.tone(samples / 16000, 16000), 16000)
        os.utime(path, ns=(time, time))

    def read(self) -> Iterator[np.ndarray]:
        yield from blocks(self)
        write(8000, 2 * 10**9)

    write(8000, 10**9)
    blocks = Reader.blocks
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "blocks", read)
        loader = clip_loader.ClipLoader(Resampler(16000), "mix", Limits())
        assert loader.load(clip, lambda: False).info.modified == 10**9
    loader = clip_loader.ClipLoader(Resampler(16000), "mix", Limits(long_samples=1000))
    loaded = loader.load(clip, lambda: False)
    assert loaded.long
    write(9000, 3 * 10**9)
    with pytest.raises(ClipError, match="the file was changed while it was read"):
        list(loader.channel_chunks(loaded.info, 0, lambda: False))


def test_a_finished_run_does_not_read_a_file(tmp_path):
    """Many files that are no audio any more, unless one looks at their sizes and times alone."""
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    soundfile.write(folder / "0.wav", helpers.tone(0.02, 16000), 16000)
    data = (folder / "0.wav").read_bytes()
    for i in range(1, 500):
        (folder / f"{i}.wav").write_bytes(data)
    run(folder, out, "output.shard_size=100")
    want = contents(out)
    for path in folder.iterdir():
        info = path.stat()
        path.write_bytes(bytes(len(data)))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    report = run(folder, out, "output.shard_size=100")
    assert (report.clips, report.clips_before, report.failures) == (0, 500, [])
    assert contents(out) == want


@given(
    workers=st.integers(1, 6), limit=st.sampled_from([1, 2000, 10**9]), n=st.integers(0, 40), chunk=st.integers(1, 5)
)
def test_the_prefetcher_gives_every_clip_in_order_and_holds_little(workers, limit, n, chunk):
    clips = [Clip(str(i), "") for i in range(n)]
    held = []

    class Worker:
        def start_worker(self):
            pass

        def in_worker(self, clips, cancelled):
            return [self.load(clip) for clip in clips]

        def load(self, clip):
            if int(clip.id) % 5 == 4:
                return FailedClip(clip, ClipError("corrupt", clip.id))
            held.append(1)
            return LoadedClip(ClipInfo(clip, 1, 1, 1.0, 0, 0, 1, 100), [torch.zeros(100)], [True])

        loader, apply = clip_loader.ClipLoader(Resampler(16000), "mix", Limits()), None

    pool = ThreadPool(Worker(), workers)
    with prefetch.Prefetcher(clips, pool, Limits(look_ahead_bytes=limit, chunk_clips=chunk)) as loaded:
        order = []
        for event in loaded:
            waiting = len(held) - sum(1 for i in order if int(i) % 5 != 4) - 1
            assert waiting * 400 <= limit + (2 * workers + 1) * chunk * 400
            order.append(event.clip.id if isinstance(event, FailedClip) else event.info.clip.id)
    assert order == [c.id for c in clips]


def test_devices():
    with pytest.raises(UsageError, match="device cuda:99"):
        device.choose_device("cuda:99")
    with pytest.raises(UsageError, match="no Apple GPU"):
        device.choose_device("mps")
    with pytest.raises(UsageError, match="device toaster: expected auto, cpu"):
        device.choose_device("toaster")
    assert device.choose_device("cpu").type == "cpu"
