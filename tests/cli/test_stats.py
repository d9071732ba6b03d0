"""hlfeat stats: statistics of directories, parts and clips agree with numpy's in float64 over all frames."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hlfeat as package
from hlfeat.config.loading import load_config
from hlfeat.errors import OutputError, UsageError
from hlfeat.extraction.extract import extract
from hlfeat.extraction.options import Options
from hlfeat.extraction.statistics_run import statistics_of_clips
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.partition import WHOLE
from hlfeat.statistics.dataset_statistics import Statistics
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.merge_statistics import merge_statistics
from hlfeat.storage.shard_writer import ShardWriter
from tests import helpers
from tests.conftest import command
from tests.extraction.runs import CHEAP, run


def check(statistics: Statistics, *outs: Path) -> None:
    """Compare with numpy's, over all frames in the directories."""
    features = [y for out in outs for _, y in package.FeatureStore(out)]
    x = np.concatenate(features).astype(np.float64)
    assert (statistics.clips, statistics.frames) == (len(features), len(x))
    np.testing.assert_allclose(statistics.mean, x.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(statistics.variance, x.var(0), rtol=1e-9)
    np.testing.assert_array_equal(statistics.min, x.min(0))
    np.testing.assert_array_equal(statistics.max, x.max(0))
    assert statistics.fingerprint == FeatureDir(outs[0]).frames_fingerprint


def same(a: Statistics, b: Statistics) -> None:
    assert (a.fingerprint, a.clips, a.frames) == (b.fingerprint, b.clips, b.frames)
    for name in ("mean", "variance", "min", "max"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-12)


@settings(max_examples=settings.default.max_examples // 2)  # most of a second each
@given(
    n=st.integers(1, 8),
    of=st.integers(1, 3),
    shard=st.sampled_from(["1", "3", "1GB"]),
    form=st.sampled_from(["npy", "pt"]),
)
def test_over_shards_parts_and_directories(tmp_path_factory, n, of, shard, form):
    tmp = tmp_path_factory.mktemp("stats")
    clips = collect_inputs([str(helpers.good_clips(tmp / "clips", n, longest=0.4))], io.BytesIO()).clips
    size = [f"output.shard_size={shard}", f"output.format={form}"]
    for part in WHOLE.split(of):
        run(Inputs(clips), tmp / "parts", *size, options=Options(quiet=True, part=part))
    check(merge_statistics([tmp / "parts"]), tmp / "parts")
    some = n // 2
    for name, half in (("a", clips[:some]), ("b", clips[some:])):
        run(Inputs(half), tmp / name, *size)
    check(merge_statistics([tmp / "a", tmp / "b"]), tmp / "a", tmp / "b")
    same(merge_statistics([tmp / "a", tmp / "b"]), merge_statistics([tmp / "parts"]))


def test_an_offset_of_a_million(clips, tmp_path):
    """The variance of features far from 0 is exact, although the run computes in float32."""
    weights = package.build(load_config(overrides=CHEAP)).state_dict()
    weights["frontend.compression.TBN.bn.bias"][:] = 1e6
    torch.save(weights, tmp_path / "w.pt")
    run(clips, tmp_path / "out", "output.shard_size=3", options=Options(quiet=True, weights=tmp_path / "w.pt"))
    statistics = merge_statistics([tmp_path / "out"])
    assert (statistics.mean > 9e5).all()
    check(statistics, tmp_path / "out")


def test_without_sidecars(clips, tmp_path):
    run(clips, tmp_path / "out", "output.shard_size=5")
    (tmp_path / "out/stats-00001.json").unlink()
    check(merge_statistics([tmp_path / "out"]), tmp_path / "out")


def test_of_clips_they_are_those_of_their_features(clips, tmp_path, monkeypatch):
    """The features are computed, but not written."""
    run(clips, tmp_path / "out", "output.shard_size=2")
    helpers.broken_clips(clips / "broken")
    inputs = collect_inputs([str(clips)], io.BytesIO())
    config = load_config("eleaf-8g-opt", [*CHEAP, "output.shard_size=2", "output.pool=mean"])
    options = Options(quiet=True, max_failures=99)
    for form in ("npy", "pt"):
        cfg = config.model_copy(update={"output": config.output.model_copy(update={"format": form})})
        with monkeypatch.context() as patch:
            patch.setattr(ShardWriter, "__init__", lambda *_: pytest.fail("features are written"))
            statistics, report = statistics_of_clips(cfg, inputs, tmp_path / "s.json", options)
        assert len(report.failures) > 10
        if form == "npy":
            same(statistics, merge_statistics([tmp_path / "out"]))
            extract(config, inputs, tmp_path / "pooled", Options(quiet=True))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["clips", "out", "pooled"]
    with pytest.raises(UsageError, match=r"expected frames as in .*, has vectors pooled over time \(mean\)"):
        merge_statistics([tmp_path / "out", tmp_path / "pooled"])


def test_of_clips_on_several_devices(clips, tmp_path):
    """To the last bit those of the shards that parts write."""
    for part in WHOLE.split(2):
        run(clips, tmp_path / "out", "output.shard_size=2", options=Options(quiet=True, part=part))
    config = load_config("eleaf-8g-opt", [*CHEAP, "output.shard_size=2"])
    inputs = collect_inputs([str(clips)], io.BytesIO())
    devices = Options(quiet=True, device="cpu,cpu")
    statistics, report = statistics_of_clips(config, inputs, tmp_path / "s.json", devices)
    same(statistics, merge_statistics([tmp_path / "out"]))
    assert (report.clips, report.parts) == (12, 2)


def test_features_are_normalised_by_them(clips, tmp_path):
    inputs = collect_inputs([str(clips)], io.BytesIO())
    config = load_config("eleaf-8g-opt", CHEAP)
    statistics, _ = statistics_of_clips(config, inputs, tmp_path / "s.json", Options(quiet=True))
    statistics.write(tmp_path / "s.json")
    run(inputs, tmp_path / "out", options=Options(quiet=True, stats=tmp_path / "s.json"))
    normal = merge_statistics([tmp_path / "out"])
    np.testing.assert_allclose(normal.mean, 0, atol=1e-5)
    np.testing.assert_allclose(normal.variance, 1, atol=1e-5)


def test_a_link_and_a_pipe_stay_what_they_are(clips, tmp_path):
    run(clips, tmp_path / "a")
    statistics = merge_statistics([tmp_path / "a"])
    (tmp_path / "target").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "target/s.json")
    statistics.write(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    same(Statistics.read(tmp_path / "target/s.json"), statistics)
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    statistics.write(tmp_path / "pipe")
    assert reader.communicate(timeout=20)[0] == (tmp_path / "target/s.json").read_bytes()
    assert (tmp_path / "pipe").is_fifo()


def test_folders_of_one_configuration_however_they_are_stored(clips, tmp_path):
    run(clips, tmp_path / "a")
    run(clips, tmp_path / "b", "output.shard_size=3", "output.format=pt", "output.dtype=float16")
    one, both = merge_statistics([tmp_path / "a"]), merge_statistics([tmp_path / "a", tmp_path / "b"])
    assert (both.fingerprint, both.clips, both.frames) == (one.fingerprint, 2 * one.clips, 2 * one.frames)


def test_what_is_refused(clips, tmp_path):
    run(clips, tmp_path / "a")
    run(clips, tmp_path / "b", "seed=1")
    with pytest.raises(UsageError, match=r"expected features of one configuration: \S+b has the fingerprint"):
        merge_statistics([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.wav").write_bytes(b"")
    run(tmp_path / "bad", tmp_path / "empty")
    with pytest.raises(OutputError, match="there are no features"):
        merge_statistics([tmp_path / "empty"])
    path = tmp_path / "a/stats-00000.json"
    path.write_text(path.read_text().replace('"clips": 12', '"clips": 11'))
    with pytest.raises(OutputError, match=r"stats-00000\.json: damaged: of 11 clips"):
        merge_statistics([tmp_path / "a"])


def test_the_command(invoke, clips, tmp_path):
    out, path = tmp_path / "out", tmp_path / "s.json"
    run(clips, out, options=Options(quiet=True, part=WHOLE.split(2)[0]))
    result = invoke("stats", out, "-o", path)
    assert (result.returncode, result.stdout) == (0, f"{path}\n")
    assert "is not complete: no report-p2of2.json" in result.stderr
    check(Statistics.read(path), out)
    (clips / "bad.wav").write_bytes(b"")
    result = invoke("stats", clips, "-o", path, *(f"--set={s}" for s in CHEAP))
    assert (result.returncode, result.stdout) == (3, f"{path}\n")
    assert "bad.wav: empty" in result.stderr
    assert "1 clip failed (empty 1), and are not in the statistics" in result.stderr
    assert Statistics.read(path).clips == 12
    path.unlink()
    for args, code, message in (
        ([out, "-o", path, "-c", "log-mel"], 2, "--config: expected with clips only"),
        ([out, clips, "-o", path], 2, "expected another folder of features"),
        ([out, "-o", tmp_path], 2, "expected a file in an existing folder"),
        ([clips / "bad.wav", "-o", path], 1, "there are no features to make statistics of"),
    ):
        result = invoke("stats", *args)
        assert (result.returncode, result.stdout) == (code, "")
        assert message in result.stderr.splitlines()[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clips", "out"]


def test_terminated_it_leaves_nothing(tmp_path):
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips/long.flac", helpers.tone(300, 16000), 16000)
    args = [command(), "stats", str(tmp_path / "clips"), "-o", str(tmp_path / "s.json"), "-v", "-c", "leaf"]
    process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    assert any("computed in windows" in line for line in process.stderr)  # the run has begun
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert "interrupted; nothing was written" in process.stderr.read()
    assert [p.name for p in tmp_path.iterdir()] == ["clips"]
