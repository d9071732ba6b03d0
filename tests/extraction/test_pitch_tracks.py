"""Pitch tracks of clips: none is lost, and the bytes are the same whatever the run met on its way."""

from __future__ import annotations

import io
import json
import os
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import hlfeat
from hlfeat.audio.clip import Clip
from hlfeat.config.loading import load_config
from hlfeat.errors import ConfigError, OutputError, UsageError
from hlfeat.extraction import pitch_tracks
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.extract import extract_clips
from hlfeat.extraction.one_device import extract_on_device
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.pitch_tracks import PitchTracks
from hlfeat.extraction.run import Hooks
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.inspection.tracks import inspect_tracks
from hlfeat.inspection.verify import verify_tracks
from hlfeat.nn.pitch import pitch
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.failure_record import read_failures
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.track_dir import TrackDir
from tests import helpers
from tests.extraction import runs
from tests.extraction.runs import contents, files_below
from tests.extraction.test_kills import LONG_IS_SHORT, Moments, _no_syncing, changes, killed_anywhere, mixed_clips

ONE = Options(quiet=True, workers=2)
__all__ = ["_no_syncing"]  # of every test here too


def run(
    folder: Path | Inputs,
    out: Path,
    *overrides: str,
    options: Options = ONE,
    shard: int = 3,
    viterbi: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    **hooks: object,
) -> hlfeat.Report:
    """Tracks from the bands of log-mel: no pitch, but one channel whose rows have frequencies, and cheap."""
    settings = [f"output.shard_size={shard}", *overrides]
    return runs.run(
        folder, out, *settings, config="log-mel", options=options, limits=limits, product=PitchTracks(viterbi), **hooks
    )


def tracks(out: Path) -> dict[str, np.ndarray]:
    """Time, frequency and confidence by id: [frames, 3]."""
    found = {}
    for name, data in files_below(out).items():
        if name.endswith(".f0.csv"):
            assert data.startswith(b"time,frequency,confidence\n")
            found[name.removesuffix(".f0.csv")] = np.loadtxt(io.BytesIO(data), delimiter=",", skiprows=1, ndmin=2)
    return found


def assert_same_track(got: np.ndarray, want: np.ndarray, id_: str) -> None:
    """In every frame the same, up to the last decimal and float32's rounding, which moves a peak of a salience by up to
    0.006 cents (measured) when clips are cut into windows or batches."""
    np.testing.assert_allclose(got[:, 0], want[:, 0], rtol=0, atol=1e-9, err_msg=id_)
    np.testing.assert_allclose(got[:, 1], want[:, 1], rtol=3e-5, atol=0.001, err_msg=id_)  # 3e-5: 0.05 cents
    np.testing.assert_allclose(got[:, 2], want[:, 2], rtol=0, atol=1e-5, err_msg=id_)


def failed(out: Path) -> dict[str, str]:
    return {f.id: f.code for f in read_failures(out / "failures.jsonl")}


@pytest.mark.parametrize("viterbi", [False, True])
def test_equals_a_plain_loop(clips, tmp_path, viterbi):
    finished: list[Path] = []
    report = run(clips, tmp_path / "out", viterbi=viterbi, finished_shard=finished.append)
    config = load_config("log-mel")
    extractor = hlfeat.build(config).eval()
    freqs = torch.from_numpy(extractor.output_freqs()).float()
    got = tracks(tmp_path / "out")
    ids = [clip.id for clip in collect_inputs([str(clips)]).clips]
    assert finished == [tmp_path / "out" / f"{id_}.f0.csv" for id_ in ids]
    assert (report.clips, report.failures, sorted(got)) == (12, [], sorted(ids))
    for clip in collect_inputs([str(clips)]).clips:
        wave = hlfeat.load_audio(clip.path, config.audio.sample_rate)
        with torch.inference_mode():
            salience = extractor(wave[:1])[0, 0]
            want = pitch(salience, freqs, viterbi=viterbi)
        times = np.arange(len(want.frequency)) / 100
        assert_same_track(got[clip.id], np.stack([times, want.frequency, want.confidence], 1), clip.id)


def test_what_a_directory_has(clips, tmp_path):
    out = tmp_path / "out"
    (clips / "text.wav").write_text("no audio")
    run(clips, out, shard=5)
    names = set(files_below(out))
    csv = {name for name in names if name.endswith(".f0.csv")}
    shards = {f"shard-0000{i}.jsonl" for i in range(3)}
    assert names - csv == shards | {"failures.jsonl", "hlfeat.yaml", "report.json"}
    index = [json.loads(line) for name in sorted(shards) for line in (out / name).read_text().splitlines()]
    assert {r["shard"] for r in index} == csv
    assert all(r["shard"] == f"{r['id']}.f0.csv" and r["row"] == 0 for r in index)
    assert {r["id"]: r["frames"] for r in index} == {id_: len(track) for id_, track in tracks(out).items()}
    assert failed(out) == {"text.wav": "not-audio"}
    facts = inspect_tracks(out).as_dict()
    assert (facts["clips"], facts["failures_by_code"], facts["complete"]) == (12, {"not-audio": 1}, True)
    assert facts["frames"] == sum(r["frames"] for r in index)
    assert "  verified  yes: sums, frames and ids are those of the tracks" in inspect_tracks(out).lines(verified=True)
    assert list(verify_tracks(TrackDir(out))) == []


@pytest.mark.parametrize("damage", ["longer", "changed", "missing"])
def test_damage_is_found(clips, tmp_path, damage):
    out = tmp_path / "out"
    run(clips, out)
    path = next(out.rglob("*.f0.csv"))
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
        with pytest.raises(OutputError, match="is missing"):
            run(clips, out)
    else:
        path.write_bytes(data + b"1,2,3\n" if damage == "longer" else data.replace(b"1", b"7"))
    (line,) = verify_tracks(TrackDir(out))
    words = {"longer": "frames as the index has", "changed": "crc32", "missing": "cannot be read: No such file"}
    assert line.startswith(f"{path}: ")
    assert words[damage] in line


def test_features_and_tracks_are_not_mistaken_for_one_another(clips, tmp_path):
    run(clips, tmp_path / "tracks")
    runs.run(clips, tmp_path / "features", config="log-mel")
    with pytest.raises(UsageError, match="holds pitch tracks, not features; choose another folder"):
        runs.run(clips, tmp_path / "tracks", "output.shard_size=3", config="log-mel")
    with pytest.raises(UsageError, match="holds features, not pitch tracks"):
        run(clips, tmp_path / "features")
    with pytest.raises(UsageError, match=r"holds pitch tracks of another configuration \(pitch.viterbi differ\)"):
        run(clips, tmp_path / "tracks", viterbi=True)
    with pytest.raises(UsageError, match=r"another configuration \(frontend.n_filters differ\)"):
        run(clips, tmp_path / "tracks", "frontend.n_filters=40")
    with pytest.raises(OutputError, match=r"holds pitch tracks, a \.f0\.csv for each clip, and no features"):
        hlfeat.FeatureStore(tmp_path / "tracks")
    with pytest.raises(OutputError, match="and no features"):
        hlfeat.FeatureStore(tmp_path / "features", tmp_path / "tracks")
    with pytest.raises(UsageError, match="it holds pitch tracks"):
        FeatureDir(tmp_path / "tracks")
    with pytest.raises(UsageError, match="holds features"):
        TrackDir(tmp_path / "features")


@pytest.mark.parametrize("replaced_by", ["features", "tracks"])
def test_overwriting_removes_the_tracks_and_nothing_else(clips, tmp_path, replaced_by):
    out = tmp_path / "out"
    run(clips, out)
    mine = out / "d0/mine.txt"
    mine.write_text("notes")
    options = replace(ONE, overwrite=True)
    only = Inputs([Clip("a.wav", str(next(clips.rglob("*.flac"))))])
    if replaced_by == "features":
        runs.run(only, out, config="log-mel", options=options)
        assert tracks(out) == {}
    else:
        run(only, out, options=options)
        assert list(tracks(out)) == ["a.wav"]
    assert [str(p.relative_to(out)) for p in out.rglob("*") if p.is_dir()] == ["d0"]
    assert mine.read_text() == "notes"


def test_any_number_of_workers_and_parts(tmp_path):
    folder = mixed_clips(tmp_path / "clips", 14)
    for workers in (1, 2):
        run(folder, tmp_path / f"workers {workers}", options=replace(ONE, workers=workers))
    want = contents(tmp_path / "workers 1")
    assert contents(tmp_path / "workers 2") == want
    assert len(tracks(tmp_path / "workers 1")) == 15
    for part in WHOLE.split(2):
        run(folder, tmp_path / "parts", options=replace(ONE, part=part))
    got = contents(tmp_path / "parts")
    whole = [name for name in want if name.endswith(".f0.csv")]
    assert {name: got.get(name) for name in whole} == {name: want[name] for name in whole}
    assert failed(tmp_path / "parts") == failed(tmp_path / "workers 1") != {}
    assert inspect_tracks(tmp_path / "parts").missing == []


@pytest.mark.parametrize("viterbi", [False, True])
def test_long_clips_are_tracked_window_by_window(clips, tmp_path, viterbi):
    config, inputs, product = load_config("pitch-salience"), collect_inputs([str(clips)]), PitchTracks(viterbi)
    extract_clips(config, inputs, tmp_path / "whole", ONE, product=product)
    limits = replace(LONG_IS_SHORT, window_frames=32)
    extract_clips(config, inputs, tmp_path / "windows", ONE, limits=limits, product=product)
    whole, windows = tracks(tmp_path / "whole"), tracks(tmp_path / "windows")
    assert list(whole) == list(windows)
    for id_, track in whole.items():
        assert_same_track(windows[id_], track, id_)


def test_killed_at_every_moment(tmp_path):
    folder = mixed_clips(tmp_path / "clips", 6)
    moments, want = killed_anywhere(tmp_path, tmp_path / "out", partial(run, folder, limits=LONG_IS_SHORT))
    assert sum(name.endswith(".f0.csv") for name in want) == 7
    assert len(moments.seen) > 30
    for moment, left in moments:
        for name, data in files_below(left).items():
            if name.endswith(".f0.csv"):
                assert data == want[name], moment  # whole from the moment that it has its name
    assert not [name for name in want if name.endswith(".tmp")]


def test_killed_before_other_clips_are_asked_for(tmp_path):
    """What a killed run has published without listing it is gone, also if the next run is about other clips."""
    folder = helpers.good_clips(tmp_path / "clips", 6, longest=0.3)
    moments = Moments(tmp_path / "out", tmp_path / "moment")
    with changes(moments.out, moments.take):
        run(folder, moments.out)
    other = Inputs([Clip("another.wav", str(next(folder.rglob("*.flac"))))])
    for moment, left in moments:
        run(other, left)
        listed = {json.loads(line)["shard"] for p in left.glob("shard*.jsonl") for line in p.open()}
        assert {f"{id_}.f0.csv" for id_ in tracks(left)} == listed, moment
        assert "another.wav.f0.csv" in listed
        assert not list(left.rglob("*.tmp"))


def test_updating_killed_at_every_moment(tmp_path):
    folder, out = helpers.good_clips(tmp_path / "clips", 6, longest=0.4), tmp_path / "out"
    run(folder, out, shard=2)
    for clip in collect_inputs([str(folder)]).clips[1:4:2]:
        info = soundfile.info(clip.path)
        x, rate = soundfile.read(clip.path)
        soundfile.write(clip.path, x[::-1], rate, format=info.format, subtype=info.subtype)
    run(folder, tmp_path / "anew", shard=2)
    go = partial(run, folder, options=replace(ONE, update=True), shard=2)
    _, want = killed_anywhere(tmp_path, out, go)
    assert want == contents(tmp_path / "anew")


def test_an_update_never_takes_back_what_was_edited_by_hand(tmp_path):
    folder, out = helpers.good_clips(tmp_path / "clips", 6, longest=0.4), tmp_path / "out"
    run(folder, out, shard=2)
    for clip in collect_inputs([str(folder)]).clips[1:4:2]:  # of the first shard and the second
        os.utime(clip.path, (1e9, 1e9))
    edited = TrackDir(out)
    last = out / next(iter(edited.entries(edited.shards[1]))).shard
    last.write_bytes(last.read_bytes().replace(b"0", b"1", 1))
    before = contents(out)
    with pytest.raises(UsageError, match=f"update: {last} was edited after it was written"):
        run(folder, out, options=replace(ONE, update=True), shard=2)
    assert contents(out) == before
    first = next(edited.entries(edited.shards[0])).shard
    (out / first).write_bytes(b"mine")
    run(folder, out, shard=2)  # without an update they stay as they are
    assert (out / first).read_bytes() == b"mine"


def test_a_clip_that_breaks_loses_its_track_when_it_is_updated(clips, tmp_path):
    out, path = tmp_path / "out", next(clips.rglob("*.flac"))
    run(clips, out)
    path.write_text("no audio any more")
    run(clips, out, options=replace(ONE, update=True))
    assert failed(out) == {str(path.relative_to(clips)): "not-audio"}
    assert len(tracks(out)) == 11


def test_hostile_ids_fail_alone_and_write_nothing_outside(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, helpers.tone(0.3, 16000), 16000)
    hostile = ["..", "../up.wav", "/abs.wav", "nul\0.wav", "x" * 300, "hlfeat.yaml/a.wav", "good.wav.f0.csv/a.wav"]
    out = tmp_path / "below/out"
    inputs = Inputs([Clip(id_, str(path)) for id_ in [hostile[0], "good.wav", *hostile[1:], "good", "é/\udcff.wav"]])
    report = run(inputs, out)
    assert (report.clips, len(report.failures)) == (3, len(hostile))
    assert failed(out) == dict.fromkeys(hostile, "bad-id")
    assert sorted(tracks(out)) == ["good", "good.wav", "é/\udcff.wav"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["below", "tone.wav"]
    assert [p.name for p in (tmp_path / "below").iterdir()] == ["out"]
    run(inputs, out)
    assert len(tracks(out)) == 3


def test_members_of_an_archive_with_hostile_names(tmp_path):
    data = io.BytesIO()
    soundfile.write(data, helpers.tone(0.3, 16000), 16000, format="WAV")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../../up.wav", "/abs.wav", "d/good.wav", "x" * 251 + ".wav"):
            member = tarfile.TarInfo(name)
            member.size = len(data.getvalue())
            archive.addfile(member, io.BytesIO(data.getvalue()))
    run(collect_inputs([str(tmp_path / "a.tar")]), tmp_path / "out")
    assert sorted(tracks(tmp_path / "out")) == ["abs.wav", "d/good.wav", "up.wav"]
    assert failed(tmp_path / "out") == {"x" * 251 + ".wav": "bad-id"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "out"]


def test_files_of_the_same_name_and_files_of_the_users(tmp_path):
    """In the folder of the clips themselves, where crepe writes too."""
    for name in ("a.wav", "a.flac", "a"):
        soundfile.write(tmp_path / name, helpers.tone(0.3, 16000), 16000, format="FLAC" if "flac" in name else "WAV")
    (tmp_path / "a.flac.f0.csv").write_text("annotated by hand")
    run(Inputs([Clip(name, str(tmp_path / name)) for name in ("a.wav", "a.flac", "a")]), tmp_path)
    assert failed(tmp_path) == {"a.flac": "exists"}
    assert (tmp_path / "a.flac.f0.csv").read_text() == "annotated by hand"
    (tmp_path / "a.flac.f0.csv").unlink()
    run(Inputs([Clip(name, str(tmp_path / name)) for name in ("a.wav", "a.flac", "a")]), tmp_path,
        options=replace(ONE, retry_failed=True))  # fmt: skip
    assert failed(tmp_path) == {}
    assert sorted(tracks(tmp_path)) == ["a", "a.flac", "a.wav"]


def test_each_channel_and_a_clip_shorter_than_the_window(tmp_path):
    x = np.stack([helpers.tone(0.4, 16000, 200), helpers.tone(0.4, 16000, 900)], 1)
    soundfile.write(tmp_path / "stereo.wav", x, 16000)
    soundfile.write(tmp_path / "short.wav", x[:80, 0], 16000)  # 5 ms
    inputs = Inputs([Clip(name, str(tmp_path / name)) for name in ("stereo.wav", "short.wav")])
    run(inputs, tmp_path / "out", "audio.channels=each", shard=1)
    got = tracks(tmp_path / "out")
    assert {id_: len(track) for id_, track in got.items()} == {"stereo.wav#0": 40, "stereo.wav#1": 40, "short.wav#0": 1}
    assert np.median(got["stereo.wav#0"][:, 1]) < np.median(got["stereo.wav#1"][:, 1])


@pytest.mark.parametrize(
    ("config", "overrides", "words"),
    [
        ("eleaf-8g-opt", [], "frontend must have one channel whose rows have frequencies, for pitch, got 2 channels"),
        ("eleaf-harmonic", [], r"stack.\d+ must have one channel"),
        ("log-mel", ["output.pool=mean"], "output.pool must be null for pitch tracks, got mean"),
        ("log-mel", ["output.dtype=float16"], "output.dtype must be float32"),
        ("log-mel", ["output.format=pt"], "output.format must be npy"),
        ("log-mel", ["stack=[{layer: projection, features: 1}]"], "got rows without frequencies"),
    ],
)
def test_configurations_without_a_pitch(config, overrides, words):
    with pytest.raises(ConfigError, match=words):
        PitchTracks().prepare(load_config(config, overrides), None, None)


def test_parts_at_the_same_time_share_no_file(tmp_path):
    folder, opened = helpers.good_clips(tmp_path / "clips", 4, longest=0.2), [set(), set()]
    for part, names in zip(WHOLE.split(2), opened, strict=True):
        with changes(tmp_path / "out", lambda what, name, names=names: names.add(name) if what == "open" else None):
            run(folder, tmp_path / "out", options=replace(ONE, part=part))
    assert all(len(names) > 4 for names in opened)
    assert not opened[0] & opened[1]


def test_a_part_killed_leaves_the_tracks_of_the_other(tmp_path):
    folder = mixed_clips(tmp_path / "clips", 4, seconds=0.5)

    def both(out: Path) -> None:
        for part in (Part(2, 2), Part(2, 1)):
            run(folder, out, options=replace(ONE, part=part), shard=2)

    killed_anywhere(tmp_path, tmp_path / "out", both)


def test_silence_has_no_pitch_and_a_tone_has_its_own(tmp_path):
    """With the configuration that the command takes by default; clips in windows too."""
    t = np.arange(16000) / 16000
    a2 = sum(0.1 * np.sin(2 * np.pi * 110 * h * t) / h for h in range(1, 8))
    sounds = {"silence.wav": np.zeros(16000), "a2.wav": a2, "5 ms of silence.wav": np.zeros(80)}
    sounds["silence and a2.wav"] = np.stack([np.zeros(16000), a2], 1)
    for name, x in sounds.items():
        soundfile.write(tmp_path / name, x, 16000)
    inputs = Inputs([Clip(name, str(tmp_path / name)) for name in sounds])
    config = load_config("pitch-salience", ["audio.channels=each"])
    for limits, out in ((DEFAULT_LIMITS, tmp_path / "held"), (LONG_IS_SHORT, tmp_path / "windows")):
        extract_clips(config, inputs, out, ONE, limits=limits, product=PitchTracks())
        got = tracks(out)
        for id_ in ("silence.wav#0", "silence and a2.wav#0", "5 ms of silence.wav#0"):
            assert not got[id_][:, 1:].any(), id_
        for id_ in ("a2.wav#0", "silence and a2.wav#1"):
            _, frequency, confidence = got[id_][10:-10].T
            assert (np.abs(1200 * np.log2(frequency / 110)) < 20).all()
            assert (confidence > 0.9).all()


@pytest.mark.parametrize("limits", [DEFAULT_LIMITS, LONG_IS_SHORT])
@pytest.mark.parametrize("kernel", [1, 3])
def test_silence_has_no_pitch_after_training_either(tmp_path, limits, kernel):
    """Biases and norms prefer some rows in silence too, and do so otherwise at the edges, which a kernel over time
    pads."""
    norm, last = "{layer: norm, kind: batch}", "{layer: conv, out_channels: 1, kernel: [3, 1]}"
    conv = f"{{layer: conv, out_channels: 4, kernel: [3, {kernel}]}}"
    config = load_config("log-mel", [f"stack=[{norm}, {conv}, {norm}, {last}]"])
    extractor = hlfeat.build(config)
    torch.manual_seed(1)
    for _ in range(2):
        extractor(torch.randn(4, 16000))
    with torch.no_grad():
        for parameter in extractor.stack.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save(extractor.state_dict(), tmp_path / "trained.pt")
    noise = 0.1 * np.random.default_rng(1).standard_normal(16000)
    sounds = {"silence.wav": np.zeros(48000), "noise.wav": noise, "both.wav": np.r_[noise, np.zeros(16000), noise]}
    for name, x in sounds.items():
        soundfile.write(tmp_path / name, x, 16000)
    inputs = Inputs([Clip(name, str(tmp_path / name)) for name in sounds])
    options = replace(ONE, weights=tmp_path / "trained.pt")
    extract_clips(config, inputs, tmp_path / "out", options, limits=limits, product=PitchTracks())
    got = tracks(tmp_path / "out")
    with torch.inference_mode():
        assert extractor.eval()(torch.zeros(1, 16000))[0, 0, :, 50].std() > 0.01  # it prefers some rows
    assert not got["silence.wav"][:, 1:].any()
    assert (got["noise.wav"][:, 1:] > 0).all()
    assert not got["both.wav"][110:190, 1:].any()
    assert (got["both.wav"][:95, 1:] > 0).all()
    assert (got["both.wav"][205:, 1:] > 0).all()


@pytest.mark.parametrize("viterbi", [False, True])
def test_batches_for_a_device_give_the_same_tracks(clips, tmp_path, viterbi):
    config, inputs = load_config("pitch-salience"), collect_inputs([str(clips)])
    for out, engine in ((tmp_path / "cpu", None), (tmp_path / "batches", batch_engine_on_cpu)):
        extract_on_device(config, inputs, out, DEFAULT_LIMITS, ONE, Hooks(), engine, PitchTracks(viterbi))
    cpu, batches = tracks(tmp_path / "cpu"), tracks(tmp_path / "batches")
    assert list(cpu) == list(batches)
    for id_, track in cpu.items():
        assert_same_track(batches[id_], track, id_)


def batch_engine_on_cpu(extractor, postprocessor, loader, device, dtype, batch_samples, limits):
    return BatchEngine(extractor, postprocessor, loader, device, dtype, 64000, limits)


def test_a_path_for_which_memory_does_not_suffice_fails_its_clip_alone(clips, tmp_path, monkeypatch):
    longest = max(clips.rglob("*.*"), key=lambda path: soundfile.info(path).duration)

    def too_long(salience, freqs, *, viterbi=False):
        if viterbi and salience.shape[-1] > 200:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory")
        return pitch(salience, freqs, viterbi=viterbi)

    monkeypatch.setattr(pitch_tracks, "pitch", too_long)
    run(clips, tmp_path / "out", viterbi=True, limits=LONG_IS_SHORT)
    codes = failed(tmp_path / "out")
    assert codes[str(longest.relative_to(clips))] == "out-of-memory"
    assert set(codes.values()) == {"out-of-memory"}
    assert len(codes) + len(tracks(tmp_path / "out")) == 12
