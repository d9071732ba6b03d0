"""hlfeat inspect: what it tells is what is there, and --verify finds every kind of damage, one line each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import hlfeat as package
from hlfeat.errors import InterruptedRunError, OutputError, UsageError
from hlfeat.extraction.options import Options
from hlfeat.inspection.summary import histogram, inspect
from hlfeat.inspection.text import summary_lines
from hlfeat.inspection.verify import verify
from hlfeat.partition import WHOLE
from hlfeat.statistics.moments import moments
from hlfeat.storage.feature_dir import FeatureDir
from tests import helpers
from tests.extraction.runs import run
from tests.statistics.test_moments import check


@pytest.fixture(scope="module", params=["npy", "pt"])
def made(request, tmp_path_factory) -> Path:
    """Three shards, a silent clip, failures; not to be changed."""
    tmp = tmp_path_factory.mktemp("made")
    folder = helpers.good_clips(tmp / "clips", 10, longest=1.0)
    soundfile.write(folder / "e silent.wav", np.zeros(8000), 16000)
    (folder / "f.wav").write_bytes(b"")
    (folder / "g.flac").write_bytes(b"text")
    run(folder, tmp / "out", "output.shard_size=4", f"output.format={request.param}")
    return tmp / "out"


@pytest.fixture
def out(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def off(folder: Path) -> list[str]:
    return [line.replace(f"{folder}{os.sep}", "").replace(str(folder), ".") for line in verify(FeatureDir(folder))]


def damage(folder: Path) -> list[str]:
    return [damage.reason.replace(f"{folder}{os.sep}", "") for damage in inspect(folder).damaged]


def test_tells_what_is_there(made):
    found = inspect(made)
    store = package.FeatureStore(made)
    features = np.concatenate([y for _, y in store])
    check(found.moments, features)
    told = found.as_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["clips"], told["frames"], told["shape"], told["dtype"], told["shards"]) == (
        11, len(features), [2, 8], "float32", 3)  # fmt: skip
    assert told["hours"] == pytest.approx(sum(store.record(i)["duration"] for i in store.ids) / 3600)
    assert told["data_bytes"] == sum(p.stat().st_size for p in made.glob(f"*{found.data_suffix}"))
    assert (told["complete"], told["missing"]) == (True, [])
    assert told["failures_by_code"] == {"empty": 1, "not-audio": 1}
    assert told["silent"] == told["constant"] == ["e silent.wav"]
    np.testing.assert_allclose(told["std"], features.astype(np.float64).std(0), rtol=1e-9)
    assert sum(b["clips"] for b in told["durations"]) == 11
    assert told["config"]["frontend"]["n_filters"] == 8
    assert told["fingerprint"] == store.description["fingerprint"]
    text = list(summary_lines(found))
    assert "  failures  2: empty 1, not-audio 1" in text
    assert "  complete  yes" in text
    assert "  silent    1: e silent.wav" in text
    assert len(text) < 30
    assert len(list(summary_lines(found, bands=True))) == len(text) + 2 * 8 - 2


def test_without_statistics_beside_the_shards_they_are_computed(made, out, caplog):
    (out / "stats-00000.json").unlink()
    (out / "stats-00002.json").unlink()
    with caplog.at_level("INFO", "hlfeat"):
        found = inspect(out)
    assert "stats-00002.json is missing" in caplog.text
    want = inspect(made).as_dict()
    told = found.as_dict()
    for key in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(told[key], want[key], rtol=1e-9)
    assert told["constant"] == ["e silent.wav"]
    assert told["silent"] == []
    assert len(told["shards_without_statistics"]) == 2
    assert any("not known of 2 shards" in line for line in summary_lines(found))
    assert off(out) == []


def test_what_is_not_complete(clips, tmp_path):
    out = tmp_path / "out"
    asked = []
    with pytest.raises(InterruptedRunError):
        run(clips, out, "output.shard_size=3", stopped=lambda: (asked.append(1), len(asked) > 9)[1])
    assert inspect(out).missing == ["report.json: the run was interrupted (asked to stop)"]
    (out / "report.json").unlink()  # as if it had been killed
    assert inspect(out).missing == ["no report.json: the run was stopped, or is at work"]
    run(clips, out, "output.shard_size=3")
    assert inspect(out).missing == []
    (out / "shard-00003.jsonl").unlink()
    assert inspect(out).missing == ["report.json is of 12 clips and 0 failures, an earlier run's"]
    for part in WHOLE.split(3)[::2]:
        run(clips, tmp_path / "parts", options=Options(quiet=True, part=part))
    assert inspect(tmp_path / "parts").missing == ["no report-p2of3.json: that part is not done"]
    run(clips, tmp_path / "parts", options=Options(quiet=True, part=WHOLE.split(3)[1]))
    assert inspect(tmp_path / "parts").missing == []
    assert len(inspect(tmp_path / "parts").durations) == 12
    assert list(verify(FeatureDir(tmp_path / "parts"))) == []


def test_pooled_features_and_empty_directories(clips, tmp_path):
    run(clips, tmp_path / "pooled", "output.pool=mean+std")
    found = inspect(tmp_path / "pooled")
    assert found.as_dict()["shape"] == [32]
    assert np.shape(found.as_dict()["mean"]) == (32,)
    assert list(verify(FeatureDir(tmp_path / "pooled"))) == []
    assert len(list(summary_lines(found, bands=True))) > 32
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.wav").write_bytes(b"")
    run(tmp_path / "bad", tmp_path / "empty")
    found = inspect(tmp_path / "empty")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.as_dict()["mean"] is None
    assert (found.missing, len(found.durations)) == ([], 0)
    assert "  clips     0" in list(summary_lines(found))


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=30))
@example([1.9])  # 1.9 / 0.1 is less than 19
@example([0.3, 0.6, 0.7])
def test_every_clip_is_in_one_bar(durations):
    bins = histogram(np.array(durations))
    assert sum(n for _, _, n in bins) == len(durations)
    for a, b, n in bins:
        assert a < b
        assert n == sum(a <= d < b for d in durations)
    assert all(b == c for (_, b, _), (c, _, _) in pairwise(bins))
    assert bins[0][2]
    assert bins[-1][2]
    assert len(bins) <= 30


def test_all_is_well(made):
    sizes: list[int] = []
    assert list(verify(FeatureDir(made), sizes.append)) == []
    assert sum(sizes) == sum(y.nbytes for _, y in package.FeatureStore(made))


def edit_index(out: Path, number: int, line: int, **change: object) -> None:
    path = out / f"shard-{number:05d}.jsonl"
    records = [json.loads(text) for text in path.read_text().splitlines()]
    records[line].update(change)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def edit_features(out: Path, number: int, clip: int, value: float, crc: bool = False) -> None:
    """Change a value of a clip, and if wanted its sum."""
    import zlib

    index = out / f"shard-{number:05d}.jsonl"
    record = [json.loads(text) for text in index.read_text().splitlines()][clip]
    path = out / record["shard"]
    if path.suffix == ".npy":
        data = np.load(path, mmap_mode="r+")
        y = data[record["row"] : record["row"] + record["frames"]]
        y[0, 1, 3] = value
        data.flush()
    else:
        shard = torch.load(path, weights_only=True)
        shard[record["id"]][0, 1, 3] = value
        torch.save(shard, path)
        y = shard[record["id"]].numpy()
    if crc:
        edit_index(out, number, clip, crc32=zlib.crc32(np.ascontiguousarray(y).data))


def edit_sidecar(out: Path, number: int, change: Callable[[dict], object]) -> None:
    path = out / f"stats-{number:05d}.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def test_a_value_that_has_changed(out):
    edit_features(out, 1, 2, 7.0)
    first, *rest = off(out)
    assert "shard-00001." in first
    assert "expected the sum crc32" in first
    assert [line.split(": ")[0] for line in rest] == ["stats-00001.json"] * len(rest)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite(out, value):
    edit_features(out, 1, 2, value, crc=True)
    assert any("has 1 values that are not finite" in line for line in off(out))


def test_statistics_of_something_else(out):
    before = inspect(out).moments.mean[1, 3]
    edit_features(out, 1, 2, float(before), crc=True)
    assert [line.split(": ")[0] for line in off(out)] == ["stats-00001.json"] * len(off(out))
    assert off(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(clips=9), "of 9 clips and"),
        (lambda t: t.update(frames=9), "of 4 clips and 9 frames"),
        (lambda t: t["min"][0].__setitem__(0, -99.0), "min and max"),
        (lambda t: t["mean"][1].__setitem__(2, t["mean"][1][2] * 1.001), "the mean"),
        (lambda t: t["m2"][1].__setitem__(2, t["m2"][1][2] * 1.001), "the variance"),
        (lambda t: t.update(constant=["a"]), "names 1 clips that never change"),
        (lambda t: t.update(silent=["zz"]), "calls zz silent"),
        (lambda t: t.update(hlfeat=""), "damaged: expected an object"),
    ],
)
def test_a_sidecar_that_has_changed(out, change, message):
    edit_sidecar(out, 0, change)
    (line,) = off(out)
    assert line.startswith("stats-00000.json: ")
    assert message in line


def test_a_shard_that_cannot_be_read_does_not_hide_the_others(out):
    suffix = inspect(out).data_suffix
    edit_features(out, 2, 0, 7.0)
    (out / f"shard-00000{suffix}").unlink()
    (out / f"shard-00001{suffix}").write_bytes(b"\x93NUMPYor not")
    (out / "failures.jsonl").write_text("{}\n")
    found = off(out)
    assert found[0].startswith(f"shard-00000{suffix}: cannot be read: No such file")
    assert found[1].startswith(f"shard-00001{suffix}: damaged: ")
    assert found[2].startswith(f"shard-00002{suffix}: ")
    assert found[-1].startswith("failures.jsonl: damaged: line 1")


def test_a_summary_names_damaged_shards_and_shows_the_others(made, out, invoke):
    suffix = inspect(out).data_suffix
    whole = inspect(made).as_dict()
    (out / f"shard-00001{suffix}").unlink()
    (out / "failures.jsonl").write_text("{}\n")
    done = invoke("inspect", out)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    place = lines.index("  damaged   2, which the figures leave out (hlfeat repair):")
    assert lines[place + 1].strip().startswith(f"{out}/shard-00001{suffix}: damaged: ")
    assert lines[place + 2].strip().startswith(f"{out}/failures.jsonl: damaged: line 1: ")
    assert "  clips     7, " in done.stdout
    told = json.loads(invoke("inspect", "--json", out).stdout)
    assert [damage["name"] for damage in told["damaged"]] == ["shard-00001", "failures"]
    assert told["clips"] == whole["clips"] - 4
    assert told["silent"] == whole["silent"]
    store = package.FeatureStore(made)
    kept = np.concatenate([y for i, y in store if not store.record(i)["shard"].startswith("shard-00001")])
    np.testing.assert_allclose(told["mean"], kept.mean(0, dtype=np.float64), rtol=1e-9)
    assert whole["damaged"] == []


@pytest.mark.parametrize("made", ["npy"], indirect=True)
def test_a_shard_that_is_cut_short_or_goes_on(out):
    path = out / "shard-00001.npy"
    data = path.read_bytes()
    for wrong in (data[:-1], data + b"0"):
        path.write_bytes(wrong)
        (line,) = off(out)
        assert line.startswith("shard-00001.npy: damaged: expected ")


def test_an_index_that_has_changed(out):
    edit_index(out, 0, 1, row=999)
    edit_index(out, 1, 1, frames=1)
    path = out / "shard-00002.jsonl"
    path.write_text(path.read_text().replace("{", "[", 1))
    found = off(out)
    assert any(line.startswith("shard-00000.jsonl: line 2: expected rows from ") for line in found)
    assert any(line.startswith("shard-00001.jsonl: line 3: expected rows from ") for line in found)
    assert any(line.startswith("shard-00002.jsonl: damaged: line 1") for line in found)


def test_an_index_that_is_cut_short(out):
    path = out / "shard-00001.jsonl"
    *kept, _ = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept))
    found = off(out)
    assert "rows as the index has" in found[0]
    assert ("which is not in its index" in found[1]) == (out / "shard-00001.pt").exists()
    path.write_text("")
    assert "shard-00001.jsonl: there is no clip in it" in off(out)
    assert damage(out) == ["shard-00001.jsonl: damaged: there is no clip in it"]


def test_ids_that_are_there_twice(out):
    first = json.loads((out / "shard-00000.jsonl").read_text().splitlines()[0])["id"]
    failure = json.loads((out / "failures.jsonl").read_text().splitlines()[0])
    with open(out / "failures.jsonl", "a") as f:
        f.write(json.dumps(failure) + "\n" + json.dumps({**failure, "id": first}) + "\n")
    assert sorted(off(out)) == sorted(
        [
            f".: the id {first} is there 2 times: in shard-00000.jsonl, the failures",
            f".: the id {failure['id']} is there 2 times: in the failures",
        ]
    )


def test_another_type_or_shape_than_hlfeat_yaml_says(out):
    text = (out / "hlfeat.yaml").read_text()
    for old, new, told in (("bands: 8", "bands: 4", "2, 4] float32"), ("float32", "float16", "2, 8] float16")):
        (out / "hlfeat.yaml").write_text(text.replace(old, new))
        wrong = {line.split(".")[0] for line in off(out) if "damaged: expected [" in line and told in line}
        assert wrong == {f"shard-{i:05d}" for i in range(3)}
    (out / "hlfeat.yaml").write_text("fingerprint: x\n")
    with pytest.raises(OutputError, match=r"hlfeat\.yaml: damaged: expected the layout"):
        FeatureDir(out)
    with pytest.raises(UsageError, match="not a feature directory"):
        FeatureDir(out / "hlfeat.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bands: 8", "bands: -8"),
        ("bands: 8", f"bands: {'9' * 400}"),
        ("bands: 8", "bands: .inf"),
        ("frames_per_second: ", "frames_per_second: x"),
    ],
)
def test_odd_numbers_in_hlfeat_yaml(out, old, new):
    text = (out / "hlfeat.yaml").read_text()
    assert old in text
    (out / "hlfeat.yaml").write_text(text.replace(old, new))
    with pytest.raises(OutputError, match=r"hlfeat\.yaml: damaged: expected the layout"):
        inspect(out)


@pytest.mark.parametrize("duration", ["NaN", "Infinity", "-1.0", "1e300"])
def test_odd_durations(out, duration):
    index = out / "shard-00001.jsonl"
    index.write_text(re.sub(r'"duration": [0-9.]+', f'"duration": {duration}', index.read_text(), count=1))
    assert damage(out)[0].startswith("shard-00001.jsonl: damaged: line 1: expected a duration in seconds")
    assert len(damage(out)) == 1


def test_long_clips_are_read_in_pieces(made, monkeypatch):
    monkeypatch.setattr("hlfeat.storage.feature_format.PIECE", 100)
    folder = FeatureDir(made)
    assert list(verify(folder)) == []
    shard = folder.shards[0]
    store = package.FeatureStore(made)
    for entry in folder.entries(shard):
        pieces = list(folder.open_shard(shard, entry.shard).read(entry))
        assert max(len(p) for p in pieces) == 1
        np.testing.assert_array_equal(np.concatenate(pieces), store[entry.id])
    check(folder.compute(shard).moments, np.concatenate([store[entry.id] for entry in folder.entries(shard)]))


@pytest.mark.parametrize("made", ["npy"], indirect=True)
def test_the_command(invoke, made, out, tmp_path):
    found = invoke("inspect", made, out)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.count("  complete  yes") == 2
    told = [json.loads(line) for line in invoke("inspect", "--json", "--verify", made, out).stdout.splitlines()]
    assert [(t["clips"], t["off"]) for t in told] == [(11, []), (11, [])]
    edit_features(out, 1, 2, 7.0)
    found = invoke("inspect", "--verify", out, made)
    assert found.returncode == 1
    assert "expected the sum crc32" in found.stdout.splitlines()[0]
    assert "  verified  yes" in found.stdout
    found = invoke("inspect", "--verify", "--json", out)
    assert found.returncode == 1
    assert json.loads(found.stdout)["off"]
    for wrong, code in ((tmp_path / "nowhere", 2), (made.parent / "clips", 2)):
        found = invoke("inspect", wrong)
        assert (found.returncode, found.stdout) == (code, "")
        assert "not a feature directory" in found.stderr
    (out / "stats-00000.json").write_text("{")
    found = invoke("inspect", out)
    assert (found.returncode, found.stderr) == (1, "")
    assert "stats-00000.json: damaged" in found.stdout


CLIPS = 1_000_000 if os.environ.get("HLFEAT_TESTS") == "thorough" else 50_000


def test_very_many_clips_in_little_memory(tmp_path):
    """A million: 100 MiB more than nothing at all would be too many for the arrays, and Python's objects take 1 GiB."""
    features = "{channels: 1, bands: 1}\nconfig: {output: {dtype: float16}}"
    (tmp_path / "hlfeat.yaml").write_text(f"fingerprint: x\nfeatures: {features}\n")
    y = np.ones((1000, 1, 1), np.float16)
    own = moments(y)
    arrays = {k: getattr(own, k).tolist() for k in ("mean", "m2", "min", "max")}
    told = {"hlfeat": "shard statistics", "clips": 1000, "frames": 1000, **arrays, "silent": [], "constant": []}
    for number in range(CLIPS // 1000):
        name = f"shard-{number:05d}"
        np.save(tmp_path / f"{name}.npy", y)
        summary_lines = (
            {"id": f"speaker/utterance-{number:05d}-{i:03d}.flac", "path": "p" * 60, "shard": f"{name}.npy", "row": i,
             "frames": 1, "duration": 4.99, "size": 123456, "modified": 17 * 10**17} for i in range(1000)
        )  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in summary_lines))
        (tmp_path / f"stats-{number:05d}.json").write_text(json.dumps(told))
    code = f"""
import resource
from pathlib import Path
import numpy
from hlfeat.inspection.summary import inspect
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = inspect(Path({str(tmp_path)!r}))
assert found.moments.frames == len(found.durations) == {CLIPS}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 * 1024 + 40 * CLIPS / 1024  # KiB: some for modules, 8 bytes a clip and their copies
