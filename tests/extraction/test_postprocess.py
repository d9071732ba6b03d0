"""Normalising and pooling: the definitions in plain float64, whatever pieces, threads and stops a run has had."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import hlfeat
from hlfeat.cli import config as cli_config
from hlfeat.cli.dry_run import print_plan
from hlfeat.config.loading import explained, load_config
from hlfeat.errors import ClipError, ConfigError, InterruptedRunError, UsageError
from hlfeat.extraction import setup as extraction_setup
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.extract import extract
from hlfeat.extraction.options import Limits, Options
from hlfeat.extraction.pooling import Windows
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.product import FEATURES
from hlfeat.inputs.collect import collect_inputs
from hlfeat.plotting import store_view
from hlfeat.statistics.dataset_statistics import Statistics
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.named_place import place_of
from tests import helpers
from tests.extraction.runs import CHEAP, contents, run

POOLS = ["mean", "mean+std", "max", "window:0.25", "window:0.3,0.1"]


def frames_of_windows(frames: int, rate: Fraction, pool: str) -> list[list[int]]:
    """Each window's frames, from the definition: frame by frame, windows until every frame has been in one."""
    seconds, _, hop = pool.removeprefix("window:").partition(",")
    length, step = Fraction(Decimal(seconds)), Fraction(Decimal(hop or seconds))
    windows: list[list[int]] = []
    seen: set[int] = set()
    while len(seen) < frames:
        begin = len(windows) * step
        windows.append([n for n in range(frames) if begin <= n / rate < begin + length])
        seen |= set(windows[-1])
    return windows


def pooled(y: np.ndarray, rate: Fraction, pool: str) -> np.ndarray:
    """[N, C, F] -> [vectors, dims], in float64."""
    flat = y.astype(np.float64).reshape(len(y), -1)
    if pool == "mean":
        return flat.mean(0, keepdims=True)
    if pool == "mean+std":
        return np.concatenate([flat.mean(0, keepdims=True), flat.std(0, keepdims=True)], 1)
    if pool == "max":
        return flat.max(0, keepdims=True)
    return np.array([flat[window].mean(0) for window in frames_of_windows(len(y), rate, pool)])


def statistics(y: np.ndarray, fingerprint: str = "", clips: int = 1) -> Statistics:
    """Of frames [N, C, F]."""
    y = y.astype(np.float64)
    return Statistics(fingerprint, clips, len(y), y.mean(0), y.var(0), y.min(0), y.max(0))


numbers = st.sampled_from(["0.01", "0.02", "0.025", "0.1", "0.25", "0.333", "0.5", "1", "1.01", "3"])


@given(
    frames=st.integers(1, 300),
    cuts=st.lists(st.integers(0, 300), max_size=5),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    rate=st.sampled_from([Fraction(100), Fraction(16000, 160), Fraction(44100, 441 * 3), Fraction(22050, 220)]),
    pool=st.sampled_from(["mean", "mean+std", "max"])
    | st.tuples(numbers, numbers).map(lambda p: f"window:{max(p, key=float)},{min(p, key=float)}")
    | numbers.map("window:{}".format),
    normalise=st.booleans(),
    seed=st.integers(0, 9),
)
@example(300, [], (1, 1), Fraction(100), "window:0.5", False, 0)  # the last window is whole
@example(301, [50], (1, 1), Fraction(100), "window:0.5", False, 0)  # and here has one frame
def test_pieces_are_finished_as_defined(frames, cuts, shape, rate, pool, normalise, seed):
    if pool.startswith("window"):
        seconds = [Fraction(Decimal(s)) for s in pool.removeprefix("window:").split(",")]
        if min(seconds) * rate < 1:
            with pytest.raises(ValueError, match="expected windows and hops of at least the"):
                PostProcessor(*shape, rate, None, pool)
            return
    rng = np.random.default_rng(seed)
    y = (rng.normal(size=(frames, *shape)) * 0.5 + 1000).astype(np.float32)
    told = statistics(rng.normal(size=(50, *shape)) * 3 + 990) if normalise else None
    finish = PostProcessor(*shape, rate, told, pool)
    ends = sorted(min(c, frames) for c in cuts)
    pieces = [torch.from_numpy(y[a:b]) for a, b in zip([0, *ends], [*ends, frames], strict=True)]
    found = torch.cat(list(finish(pieces))).numpy()
    frames_in = y if told is None else (y - told.mean) / np.sqrt(told.variance)
    want = pooled(frames_in, rate, pool)
    assert found.shape == want.shape == (finish.rows(frames), *finish.shape)
    # float64's rounding, of numbers near 1000: sums in one order or another
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-10)
    np.testing.assert_allclose(finish.whole(torch.from_numpy(y)).numpy(), want, rtol=0, atol=1e-10)


@given(frames=st.integers(1, 500), unit=st.integers(1, 12), step=st.integers(0, 400), more=st.integers(0, 600))
def test_windows_lose_no_frame_and_none_repeats_others(frames, unit, step, more):
    windows = Windows(unit + step + more, unit + step, unit)
    held = [range(windows.first(w), min(frames, windows.end(w))) for w in range(windows.count(frames))]
    assert set().union(*held) == set(range(frames))
    assert all(held)
    assert held[-1][-1] == frames - 1
    assert frames - 1 not in [n for w in held[:-1] for n in w]


def test_what_did_not_vary_becomes_zero(rng):
    y = rng.normal(size=(40, 2, 3)).astype(np.float32)
    y[:, 1, 2] = np.float32(0.1)
    found = PostProcessor(2, 3, Fraction(100), statistics(y)).whole(torch.from_numpy(y)).numpy()
    assert (found[:, 1, 2] == 0).all()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.delete(found.std(0).ravel(), 5), 1, atol=1e-12)


@pytest.mark.parametrize("pool", POOLS)
def test_a_frame_that_is_not_finite_does_not_disappear_in_a_vector(pool):
    y = torch.zeros(100, 1, 2)
    y[70, 0, 1] = -torch.inf
    with pytest.raises(ClipError, match="not finite") as caught:
        PostProcessor(1, 2, Fraction(100), None, pool).whole(y)
    assert caught.value.code == "non-finite"


def test_deviations_far_from_zero_and_of_one_frame(rng):
    """Squares that were summed about zero would leave nothing of a deviation of 1 at 1e8 after hours of frames."""
    y = (rng.integers(0, 8, (5000, 1, 2)) * 8.0 + 1e8).astype(np.float32)
    finish = PostProcessor(1, 2, Fraction(100), None, "mean+std")
    found = torch.cat(list(finish(torch.from_numpy(y).split(37)))).numpy()
    np.testing.assert_allclose(found, pooled(y, Fraction(100), "mean+std"), rtol=1e-9)
    one = finish.whole(torch.full((1, 1, 2), 0.1)).numpy()
    np.testing.assert_array_equal(one, [[np.float32(0.1)] * 2 + [0, 0]])


@pytest.fixture(params=["cpu", "device"])
def computer(request, monkeypatch):
    """Both ways of computing; that of other devices on the CPU too."""
    if request.param == "device":
        monkeypatch.setattr("hlfeat.extraction.one_device.make_engine", BatchEngine)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("form", "dtype"), [("npy", "float32"), ("pt", "float16")])
def test_a_run_writes_vectors(clips, tmp_path, computer, pool, form, dtype):
    """As numpy pools what a run without --pool wrote; laid out and described as documented."""
    run(clips, tmp_path / "frames")
    kept = [f"output.format={form}", f"output.dtype={dtype}", "output.shard_size=5"]
    report = run(clips, tmp_path / "out", f"output.pool={pool}", *kept)
    assert (report.clips, report.failures) == (12, [])
    frames, store = hlfeat.FeatureStore(tmp_path / "frames"), hlfeat.FeatureStore(tmp_path / "out")
    dims = 32 if pool == "mean+std" else 16
    assert store.ids == frames.ids
    for id_, y in store:
        want = pooled(frames[id_], Fraction(100), pool)
        assert (y.dtype, y.shape) == (np.dtype(dtype), want.shape)
        assert store.record(id_)["frames"] == len(y)
        np.testing.assert_allclose(y, want, rtol=1e-3 if dtype == "float16" else 1e-5, atol=1e-5)
    description = yaml.safe_load((tmp_path / "out/hlfeat.yaml").read_text())
    assert description["features"]["pool"] == pool
    assert description["features"]["dims"] == dims
    assert set(yaml.safe_load((tmp_path / "frames/hlfeat.yaml").read_text())["features"]) == {
        "channels", "bands", "frames_per_second", "hop_samples", "sample_rate", "first_centre_samples", "freqs"
    }  # fmt: skip
    windows = {key: value for key, value in description["features"].items() if key.startswith("window")}
    seconds = [float(s) for s in pool.removeprefix("window:").split(",")] if pool.startswith("window") else []
    assert list(windows.values()) == ([seconds[0], seconds[-1]] if seconds else [])
    assert "freqs" not in description["features"]
    records = [json.loads(line) for line in (tmp_path / "out/shard-00002.jsonl").read_text().splitlines()]
    assert [r["row"] for r in records] == [0, records[0]["frames"]]
    if form == "npy":
        assert np.load(tmp_path / "out/shard-00002.npy").shape == (sum(r["frames"] for r in records), dims)
    else:
        shard = torch.load(tmp_path / "out/shard-00002.pt", weights_only=True)
        assert {k: list(v.shape) for k, v in shard.items()} == {r["id"]: [r["frames"], dims] for r in records}
    batch = hlfeat.collate([store[i] for i in range(12)])
    assert batch.features.shape == (12, max(store.frames), dims)
    assert batch.lengths.tolist() == store.frames.tolist()


@pytest.mark.parametrize("long", [1000, 1 << 20])
def test_a_clip_whose_features_are_not_finite_fails_alone(clips, tmp_path, computer, long):
    soundfile.write(clips / "d0/loud.wav", np.full(8000, 1e30, np.float32), 16000, subtype="FLOAT")
    report = run(clips, tmp_path / "out", "output.pool=max", limits=Limits(long_samples=long))
    assert [(f["id"], f["code"]) for f in report.failures] == [("d0/loud.wav", "non-finite")]
    store = hlfeat.FeatureStore(tmp_path / "out")
    assert len(store) == 12
    assert np.isfinite(np.load(tmp_path / "out/shard-00000.npy")).all()
    assert len(np.load(tmp_path / "out/shard-00000.npy")) == 12


def test_a_shards_size_counts_vectors(clips, tmp_path):
    """64 bytes a vector of 16 float32: five clips fit into 320 bytes."""
    run(clips, tmp_path / "out", "output.pool=mean", "output.shard_size=320B")
    lines = [len(p.read_text().splitlines()) for p in sorted((tmp_path / "out").glob("shard-*.jsonl"))]
    assert lines == [5, 5, 2]


@pytest.mark.parametrize("config", ["eleaf-8g-opt", "eleaf-pcen", "log-mel"])
@pytest.mark.parametrize("pool", POOLS)
def test_long_clips_are_pooled_piece_by_piece(tmp_path, computer, config, pool):
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, seconds, rate in (("a", 0.5, 16000), ("b", 9, 16000), ("c", 8, 22050), ("d", 0.004, 16000)):
        soundfile.write(folder / f"{name}.flac", rng.uniform(-0.5, 0.5, (int(seconds * rate), 2)), rate)
    overrides = [f"output.pool={pool}", "audio.channels=each"]
    run(folder, tmp_path / "whole", *overrides, config=config)
    limits = Limits(long_samples=50_000, window_samples=20_000)
    run(folder, tmp_path / "pieces", *overrides, config=config, limits=limits)
    whole, pieces = hlfeat.FeatureStore(tmp_path / "whole"), hlfeat.FeatureStore(tmp_path / "pieces")
    assert pieces.ids == whole.ids
    for id_, y in whole:
        assert pieces.record(id_)["frames"] == len(y)
        # frames that are computed in pieces differ by 3e-5 themselves (test_pipeline); the pooling adds nothing
        tolerance = 3e-5 if pool == "max" or pool.startswith("window") else 3e-6
        np.testing.assert_allclose(pieces[id_], y, atol=tolerance * np.abs(y).max())


@pytest.mark.processes
@pytest.mark.parametrize("pool", ["mean+std", "window:0.3,0.1"])
def test_the_same_bytes_for_any_workers_and_after_stops(clips, tmp_path, pool):
    helpers.broken_clips(clips / "broken")
    limits = Limits(long_samples=20_000, window_samples=10_000)  # some are long
    overrides = [f"output.pool={pool}", "output.shard_size=3"]
    run(clips, tmp_path / "want", *overrides, options=Options(quiet=True, workers=1), limits=limits)
    want = contents(tmp_path / "want")
    run(clips, tmp_path / "four", *overrides, options=Options(quiet=True, workers=4), limits=limits)
    assert contents(tmp_path / "four") == want
    stops = 0
    for patience in range(5, 400, 25):
        asked = []
        try:
            stopped = lambda a=asked, n=patience: (a.append(1), len(a) > n)[1]  # noqa: E731
            run(
                clips,
                tmp_path / "out",
                *overrides,
                options=Options(quiet=True, workers=2),
                limits=limits,
                stopped=stopped,
            )
            break
        except InterruptedRunError:
            stops += 1
    assert stops >= 2
    assert contents(tmp_path / "out") == want


def make_statistics(out: Path, path: Path) -> Statistics:
    """The statistics file of a directory of frames."""
    store = hlfeat.FeatureStore(out)
    found = statistics(np.concatenate([y for _, y in store]), FeatureDir(out).frames_fingerprint, len(store))
    found.write(path)
    return found


@pytest.mark.parametrize("config", ["eleaf-8g-opt", "log-mel"])
def test_normalised_features_have_mean_0_and_deviation_1(clips, tmp_path, computer, config):
    run(clips, tmp_path / "raw", config=config)
    make_statistics(tmp_path / "raw", tmp_path / "s.json")
    run(clips, tmp_path / "out", config=config, options=Options(quiet=True, stats=tmp_path / "s.json"))
    store = hlfeat.FeatureStore(tmp_path / "out")
    y = np.concatenate([y for _, y in store]).astype(np.float64)
    # float32's rounding (6e-8) of a mean that may be a hundred deviations from zero
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-5)
    description = store.description
    assert description["stats"]["path"] == str(tmp_path / "s.json")
    assert len(description["stats"]["sha256"]) == 64
    raw = hlfeat.FeatureStore(tmp_path / "raw").description
    assert raw["stats"] is None
    assert raw["fingerprint"] != description["fingerprint"]


def test_statistics_go_before_pooling_and_with_weights(clips, tmp_path):
    weights = hlfeat.build(load_config(overrides=CHEAP)).state_dict()
    weights["frontend.compression.TBN.bn.bias"][:] = 3.0
    torch.save(weights, tmp_path / "w.pt")
    trained = Options(quiet=True, weights=tmp_path / "w.pt")
    run(clips, tmp_path / "raw", options=trained)
    told = make_statistics(tmp_path / "raw", tmp_path / "s.json")
    both = replace(trained, stats=tmp_path / "s.json")
    run(clips, tmp_path / "out", "output.pool=max", options=both)
    raw, out = hlfeat.FeatureStore(tmp_path / "raw"), hlfeat.FeatureStore(tmp_path / "out")
    for id_, y in out:
        want = ((raw[id_] - told.mean) / np.sqrt(told.variance)).reshape(len(raw[id_]), -1).max(0)
        np.testing.assert_allclose(y[0], want, atol=1e-5)
    with pytest.raises(ConfigError, match=r"s\.json: statistics of other features .*these weights"):
        run(clips, tmp_path / "b", options=Options(quiet=True, stats=tmp_path / "s.json"))


@pytest.mark.parametrize("stored", [["output.dtype=float16"], ["output.format=pt", "output.shard_size=3"]])
def test_it_does_not_matter_how_the_frames_were_stored(clips, tmp_path, stored):
    run(clips, tmp_path / "raw", "output.shard_size=5")
    make_statistics(tmp_path / "raw", tmp_path / "s.json")
    report = run(clips, tmp_path / "out", *stored, options=Options(quiet=True, stats=tmp_path / "s.json"))
    assert report.clips == 12


def test_other_statistics_are_refused(clips, tmp_path, monkeypatch):
    run(clips, tmp_path / "raw")
    told = make_statistics(tmp_path / "raw", tmp_path / "s.json")
    with_stats = Options(quiet=True, stats=tmp_path / "s.json")
    with pytest.raises(ConfigError, match=r"s\.json: statistics of other features \(fingerprint "):
        run(clips, tmp_path / "b", "frontend.min_freq=80", options=with_stats)
    assert not (tmp_path / "b").exists()
    run(clips, tmp_path / "out", options=with_stats)
    want = contents(tmp_path / "out")
    assert run(clips, tmp_path / "out", options=with_stats).clips == 0
    replace(told, mean=told.mean + 1).write(tmp_path / "s.json")
    for options in (with_stats, Options(quiet=True)):
        with pytest.raises(UsageError, match=r"another configuration \(the statistics differ\)"):
            run(clips, tmp_path / "out", options=options)
    assert contents(tmp_path / "out") == want
    config, inputs = load_config(overrides=[*CHEAP, "seed=4"]), collect_inputs([str(clips)], io.BytesIO())
    monkeypatch.setattr("multiprocessing.get_context", lambda kind: pytest.fail("a process was started"))
    with pytest.raises(ConfigError, match=r"s\.json: statistics of other features"):  # said once, not by each process
        extract(config, inputs, tmp_path / "b", replace(with_stats, device="cpu,cpu"))
    cut = {name: getattr(told, name)[:, :3] for name in ("mean", "variance", "min", "max")}
    replace(told, **cut).write(tmp_path / "s.json")
    with pytest.raises(ConfigError, match=r"s\.json: expected statistics of channels x bands \(2, 8\), got \(2, 3\)"):
        run(clips, tmp_path / "b", options=with_stats)
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read: No such file"):
        run(clips, tmp_path / "b", options=Options(quiet=True, stats=tmp_path / "none.json"))


def test_what_cannot_be_is_said_with_its_place(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("output:\n  pool: window:0.001\n")
    message = r"c\.yaml:2: output\.pool \(window:0\.001\): expected windows and hops of at least the 0\.01 s from frame"
    with pytest.raises(ConfigError, match=message), explained("c.yaml"):
        extraction_setup.prepare(load_config("c.yaml"), None, None)
    run(clips, tmp_path / "out", "output.pool=mean")
    store = hlfeat.FeatureStore(tmp_path / "out")
    with pytest.raises(UsageError, match=r"expected frames to draw, has one vector for each clip \(mean\)"):
        store_view.stored(store, store.ids)


def test_the_command_line(hlfeat, clips, tmp_path):
    """Options mean what the YAML does, and reach every device's process."""
    from hlfeat import FeatureStore

    settings = [x for s in CHEAP for x in ("--set", s)]
    run(clips, tmp_path / "raw")
    make_statistics(tmp_path / "raw", tmp_path / "s.json")
    finished = [*settings, "--pool", "window:0.50,0.1", "--stats", tmp_path / "s.json"]
    done = hlfeat("extract", clips, "-o", tmp_path / "out", *finished, "--device", "cpu,cpu")
    assert done.returncode == 0, done.stderr
    run(clips, tmp_path / "want", "output.pool=window:0.5,0.1", options=Options(quiet=True, stats=tmp_path / "s.json"))
    found, want = FeatureStore(tmp_path / "out"), FeatureStore(tmp_path / "want")
    assert found.description["fingerprint"] == want.description["fingerprint"]
    assert all(np.array_equal(found[i], want[i]) for i in want.ids)


def test_the_shape_is_said_beforehand(clips, tmp_path, capsys, caplog):
    pooled = load_config("log-mel", ["output.pool=mean+std"])
    with caplog.at_level("INFO", "hlfeat"):
        inputs = collect_inputs([str(clips)], io.BytesIO())
        print_plan(pooled, FEATURES, inputs.clips, Options(), place_of(clips / "none"))
    assert "a second, pooled by mean+std to [vectors, 160]; nothing was written" in caplog.text
    cli_config.config_check("log-mel", ["output.pool=mean+std"])
    assert "pooled over time by mean+std: [vectors, 160]" in capsys.readouterr().out
