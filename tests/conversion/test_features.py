"""Conversions to npy and pt: what `hlfeat extract` would have written, byte for byte, which it can go on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from hlfeat import FeatureStore
from hlfeat.config.loading import load_config
from hlfeat.conversion.described import convert_description
from hlfeat.extraction.options import Options
from hlfeat.partition import WHOLE
from tests import helpers
from tests.conversion.folders import SHARD, add_meta, damage, index_of
from tests.extraction.runs import CHEAP, contents, files_below, run

ALL = ["frames", "pooled", "windows"]


def but_places_of_failures(folder: Path) -> dict[str, bytes]:
    """A folder's contents. Which shard was open when a clip failed cannot be known of other shards."""
    files = contents(folder)
    lines = [json.loads(line) for line in files["failures.jsonl"].splitlines()]
    numbers = [int(line.pop("shard").removeprefix("shard-")) for line in lines]
    assert numbers == sorted(numbers)
    assert numbers[-1] <= len(list(folder.glob("shard-*.jsonl")))
    return {**files, "failures.jsonl": json.dumps(lines).encode()}


@pytest.mark.parametrize("name", ALL)
def test_pt_of_a_conversion_is_that_of_a_run(name, request, recordings, tmp_path, invoke):
    folder = request.getfixturevalue("features" if name == "frames" else name)
    pool = {"frames": [], "pooled": ["output.pool=mean+std"], "windows": ['output.pool="window:0.2,0.1"']}[name]
    run(recordings, tmp_path / "extracted", SHARD, "output.format=pt", *pool)
    result = invoke("convert", folder, "-o", tmp_path / "new", "--format", "pt")
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "new") == contents(tmp_path / "extracted")
    shards = sorted((tmp_path / "new").glob("shard-*.pt"))
    assert result.stdout.splitlines() == [str(path) for path in shards]
    assert len(shards) == 3


def test_the_format_stays_where_none_is_named(features, tmp_path, invoke):
    for options, other in [(["--dtype", "float16"], "npy"), (["--format", "pt"], "pt")]:
        assert invoke("convert", features, "-o", tmp_path / other, *options).returncode == 0
    assert invoke("convert", tmp_path / "pt", "-o", tmp_path / "again", "--shard-size", "2").returncode == 0
    assert list((tmp_path / "npy").glob("shard-*.npy"))
    assert list((tmp_path / "again").glob("shard-*.pt"))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_npy_to_pt_to_npy_gives_the_same_bytes(name, dtype, request, tmp_path, invoke):
    folder = request.getfixturevalue("features" if name == "frames" else name)
    if dtype == "float16":
        assert invoke("convert", folder, "-o", tmp_path / "half", "--format", "npy", "--dtype", dtype).returncode == 0
        folder = tmp_path / "half"
    add_meta(folder, lambda i, id_: {"label": f"ü {i}", "n": i} if i % 2 else {})
    assert invoke("convert", folder, "-o", tmp_path / "pt", "--format", "pt").returncode == 0
    assert invoke("convert", tmp_path / "pt", "-o", tmp_path / "npy", "--format", "npy").returncode == 0
    assert contents(tmp_path / "npy") == contents(folder)


@pytest.mark.parametrize("size", ["2", "5", "20kB"])
def test_dtype_and_shard_size_are_those_of_a_run(size, features, recordings, tmp_path, invoke):
    run(recordings, tmp_path / "extracted", f"output.shard_size={size}", "output.dtype=float16")
    options = ["--format", "npy", "--dtype", "float16", "--shard-size", size]
    assert invoke("convert", features, "-o", tmp_path / "new", *options).returncode == 0
    assert but_places_of_failures(tmp_path / "new") == but_places_of_failures(tmp_path / "extracted")


def test_channels_of_a_file_stay_in_one_shard(recordings, tmp_path, invoke):
    for name, size in (("first", 4), ("extracted", 3)):
        run(recordings, tmp_path / name, f"output.shard_size={size}", "audio.channels=each")
    assert (
        invoke("convert", tmp_path / "first", "-o", tmp_path / "new", "--format", "npy", "--shard-size", 3).returncode
        == 0
    )
    assert but_places_of_failures(tmp_path / "new") == but_places_of_failures(tmp_path / "extracted")


def test_parts_become_one_folder(recordings, tmp_path, invoke):
    for part in WHOLE.split(3):
        run(recordings, tmp_path / "parts", SHARD, options=Options(quiet=True, part=part))
    run(recordings, tmp_path / "whole", SHARD)
    assert invoke("convert", tmp_path / "parts", "-o", tmp_path / "new", "--format", "npy").returncode == 0
    assert but_places_of_failures(tmp_path / "new") == but_places_of_failures(tmp_path / "whole")


def test_a_run_goes_on_in_a_converted_folder(features, recordings, tmp_path, invoke):
    clips = shutil.copytree(recordings, tmp_path / "clips")
    soundfile.write(clips / "d1/zzz new.wav", helpers.tone(0.3, 16000), 16000)
    for folder in ("new", "extracted"):
        if folder == "new":
            assert invoke("convert", features, "-o", tmp_path / folder, "--format", "pt").returncode == 0
        else:
            run(recordings, tmp_path / folder, SHARD, "output.format=pt")
        sets = [word for setting in [*CHEAP, SHARD] for word in ("--set", setting)]
        result = invoke("extract", clips, "-o", tmp_path / folder, *sets, "--format", "pt", "--device", "cpu")
        assert result.returncode == 3, result.stderr
        assert "12 of 13 clips are done already; 3 of them failed" in result.stderr
    index = {line["id"]: line["crc32"] for line in index_of(tmp_path / "extracted")}
    assert {line["id"]: line["crc32"] for line in index_of(tmp_path / "new")} == index
    assert len(index) == 10


@pytest.mark.parametrize("form", ["npy", "pt"])
def test_inspect_says_that_a_converted_folder_is_complete_and_intact(form, features, tmp_path, invoke):
    assert invoke("convert", features, "-o", tmp_path / "new", "--format", form, "--shard-size", 3).returncode == 0
    result = invoke("inspect", tmp_path / "new", "--verify")
    assert result.returncode == 0, result.stdout
    assert "complete  yes" in result.stdout
    assert "failures  3" in result.stdout
    report = json.loads((tmp_path / "new/report.json").read_text())
    before = json.loads((features / "report.json").read_text())
    assert report["versions"] == before["versions"]
    assert report["converted"]["from"] == str(features)
    assert [(k, y.tolist()) for k, y in FeatureStore(tmp_path / "new")] == [
        (k, y.tolist()) for k, y in FeatureStore(features)
    ]


def test_keys_of_other_versions_stay(features, tmp_path, invoke):
    path = features / "hlfeat.yaml"
    path.write_text(path.read_text() + "later:\n  key: [1.5, x]\n")
    index = features / "shard-00000.jsonl"
    first, *others = index.read_text().splitlines()
    line = {**json.loads(first), "later": {"a": None}, "meta": {"é": "x,\n"}}
    del line["crc32"]  # as the first version
    index.write_text("\n".join([json.dumps(line), *others]) + "\n")
    assert invoke("convert", features, "-o", tmp_path / "new", "--format", "npy", "--dtype", "float16").returncode == 0
    before, after = (yaml.safe_load((f / "hlfeat.yaml").read_text()) for f in (features, tmp_path / "new"))
    after["config"]["output"]["dtype"] = "float32"
    assert after.pop("fingerprint") != before.pop("fingerprint")
    assert after == before
    new = index_of(tmp_path / "new")[0]
    assert list(new)[-3:] == ["later", "crc32", "meta"]
    assert {k: v for k, v in new.items() if k != "crc32"} == line


def test_statistics_that_an_earlier_version_did_not_write_are_made(features, tmp_path, invoke):
    whole = contents(features)
    (features / "stats-00001.json").unlink()
    assert invoke("convert", features, "-o", tmp_path / "new", "--format", "npy").returncode == 0
    assert contents(tmp_path / "new") == whole


@pytest.mark.parametrize("size", [4, 3])
def test_silent_clips_are_still_known(size, recordings, tmp_path, invoke):
    clips = shutil.copytree(recordings, tmp_path / "clips")
    soundfile.write(clips / "d0/silence.wav", np.zeros(4000), 16000)
    for name, shard in (("first", 4), ("extracted", size)):
        run(clips, tmp_path / name, f"output.shard_size={shard}")
    options = ["--format", "npy", "--shard-size", size]
    assert invoke("convert", tmp_path / "first", "-o", tmp_path / "new", *options).returncode == 0
    assert but_places_of_failures(tmp_path / "new") == but_places_of_failures(tmp_path / "extracted")
    assert "silence.wav" in invoke("inspect", tmp_path / "new").stdout


def test_text_of_a_description_stays_but_for_what_changes(features):
    lines = (features / "hlfeat.yaml").read_text().splitlines()
    converted = convert_description(features, {"format": "pt", "dtype": "float16"}).to_yaml().decode().splitlines()
    changed = [(a, b) for a, b in zip(lines, converted, strict=True) if a != b]
    assert [b for _, b in changed[1:]] == ["    format: pt", "    dtype: float16"]
    assert changed[0][1].startswith("fingerprint: ")


def test_an_edited_description_is_refused(features, tmp_path, invoke):
    path = features / "hlfeat.yaml"
    path.write_text(path.read_text().replace("sample_rate: 16000", "sample_rate: 8000"))
    result = invoke("convert", features, "-o", tmp_path / "new", "--format", "pt")
    assert result.returncode == 1
    assert "the fingerprint is not that of the configuration" in result.stderr
    assert not (tmp_path / "new").exists()


# --- what float16 cannot hold --------------------------------------------------------------------------------------


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    """Features up to 1e6 of the second and the last of five stereo clips, in one channel only."""
    folder = tmp_path / "loud"
    folder.mkdir()
    for i in range(5):
        x = np.stack([helpers.tone(0.2 + i / 20, 16000, seed=i), helpers.tone(0.2 + i / 20, 16000, seed=9 + i)], 1)
        if i in (1, 4):
            x[:, 1] *= 1e4
        soundfile.write(folder / f"{i}.wav", x, 16000, subtype="FLOAT")
    return folder


def of_loud_clips(path: Path, settings: list[str]) -> Path:
    """Statistics by which float16 holds the usual range of log-mel, from silence to full scale, and nothing louder."""
    config = load_config("log-mel", settings)
    record = {"hlfeat": "statistics", "fingerprint": config.frames_fingerprint(None), "clips": 2, "frames": 9}
    values = {"mean": -4.4, "variance": 5.2e-8, "min": -30.0, "max": 30.0}
    record |= {name: [[value] * 80] for name, value in values.items()}
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize("channels", ["mix", "each"])
@pytest.mark.parametrize("size", [4, 6])
def test_clips_that_float16_cannot_hold_fail_as_in_a_run(channels, size, loud, tmp_path, invoke):
    settings = [f"audio.channels={channels}", f"output.shard_size={size}"]
    options = Options(quiet=True, stats=of_loud_clips(tmp_path / "stats.json", settings))
    run(loud, tmp_path / "first", *settings, config="log-mel", options=options)
    run(loud, tmp_path / "extracted", *settings, "output.dtype=float16", config="log-mel", options=options)
    result = invoke("convert", tmp_path / "first", "-o", tmp_path / "new", "--format", "npy", "--dtype", "float16")
    assert result.returncode == 3, result.stderr
    assert "2 clips failed: float16 cannot hold their features" in result.stderr
    again = invoke("convert", tmp_path / "first", "-o", tmp_path / "new", "--format", "npy", "--dtype", "float16")
    assert again.returncode == 3, again.stderr
    assert "is complete already" in again.stderr
    assert "2 clips failed: float16 cannot hold their features" in again.stderr
    new, old = contents(tmp_path / "new"), contents(tmp_path / "extracted")
    failures = [[json.loads(line) for line in files.pop("failures.jsonl").splitlines()] for files in (new, old)]
    assert new == old
    assert [f["id"] for f in failures[0]] == ["1.wav", "4.wav"]
    for a, b in zip(*failures, strict=True):
        assert b["message"].startswith(a["message"])
        assert {**a, "message": ""} == {**b, "message": ""}
    assert invoke("inspect", tmp_path / "new", "--verify").returncode == 0


def test_float32_of_float16_is_refused(features, tmp_path, invoke):
    assert invoke("convert", features, "-o", tmp_path / "half", "--format", "npy", "--dtype", "float16").returncode == 0
    result = invoke("convert", tmp_path / "half", "-o", tmp_path / "new", "--format", "npy", "--dtype", "float32")
    assert result.returncode == 2
    assert result.stderr.startswith(f"hlfeat: error: --dtype: {tmp_path / 'half'} has float16, which is rounded")
    assert not (tmp_path / "new").exists()


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npy", "pt", "parquet", "kaldi", "lhotse", "webdataset"])
def test_damaged_features_end_it(form, features, tmp_path, invoke):
    path = damage(features)
    result = invoke("convert", features, "-o", tmp_path / "new", "--format", form)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    last = index_of(features)[7]["id"]
    assert line.startswith(f"hlfeat: error: {path}: damaged: {last}: expected the sum crc32 ")
    assert line.endswith("; hlfeat repair takes back what is damaged")
    assert len(result.stdout.splitlines()) == 1  # the first shard is good
    left = sorted(p.name for p in (tmp_path / "new").iterdir())
    assert not [name for name in left if "00001" in name or name.endswith((".tmp", ".lock"))]


def test_a_folder_that_is_not_complete_is_refused(features, tmp_path, invoke):
    (features / "report.json").unlink()
    result = invoke("convert", features, "-o", tmp_path / "new", "--format", "csv", "--frames")
    assert result.returncode == 1
    assert "is not complete: no report.json" in result.stderr
    assert "the command that wrote it finishes it" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_part_that_is_missing_is_told(recordings, tmp_path, invoke):
    run(recordings, tmp_path / "parts", SHARD, options=Options(quiet=True, part=WHOLE.split(2)[1]))
    result = invoke("convert", tmp_path / "parts", "-o", tmp_path / "new", "--format", "npy")
    assert result.returncode == 1
    assert "no report-p1of2.json: that part is not done" in result.stderr


@pytest.mark.parametrize("form", ["npy", "csv"])
def test_pitch_tracks_are_refused(form, tmp_path, invoke):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.3, 16000), 16000)
    assert invoke("pitch", tmp_path / "a.wav", "-o", tmp_path / "pitch", "-q", "--device", "cpu").returncode == 0
    result = invoke("convert", tmp_path / "pitch", "-o", tmp_path / "new", "--format", form)
    assert result.returncode == 2
    assert "holds pitch tracks" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_wrong_folders_and_options_are_usage_errors(features, windows, tmp_path, invoke):
    (tmp_path / "link").symlink_to(features)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    cases = {
        (features, "-o", features, "--format", "pt"): "expected another folder than that of the features",
        (tmp_path / "link", "-o", features, "--format", "csv", "--frames"): "expected another folder",
        (tmp_path / "nothing", "-o", tmp_path / "new", "--format", "pt"): "not a feature directory",
        (features, "-o", tmp_path / "full", "--format", "webdataset"): "found 'mine.txt' in it",
        (features, "-o", tmp_path / "new", "--format", "cvs"): "did you mean csv?",
        (features, "-o", tmp_path / "new", "--format", "csv"): "--frames writes a row for each frame",
        (windows, "-o", tmp_path / "new", "--format", "csv", "--frames"): "has vectors pooled over time",
        (windows, "-o", tmp_path / "new", "--format", "lhotse"): "has vectors pooled over time",
        (features, "-o", tmp_path / "new", "--format", "npy", "--frames"): "--frames: expected with a table",
        (features, "-o", tmp_path / "new", "--format", "kaldi", "--dtype", "float16"): "--dtype: expected float32",
        (features, "-o", tmp_path / "new", "--format", "npy", "--shard-size", "8X"): "--shard-size 8X: expected",
        (features, "-o", "", "--format", "npy"): "-o: expected a folder",
    }
    for arguments, message in cases.items():
        result = invoke("convert", *arguments)
        assert result.returncode == 2, arguments
        assert message in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("form", ["npy", "webdataset"])
def test_another_conversion_is_refused_and_the_same_one_is_done(form, features, pooled, tmp_path, invoke):
    new = tmp_path / "new"
    assert invoke("convert", features, "-o", new, "--format", form).returncode == 0
    before = contents(new)
    again = invoke("convert", features, "-o", new, "--format", form)
    assert (again.returncode, again.stdout) == (0, "")
    assert "is complete already" in again.stderr
    other = "pt" if form == "npy" else "kaldi"
    for source, options in (
        (pooled, ["--format", form]),
        (features, ["--format", other]),
        (features, ["--format", form, "--shard-size", 2]),
        (features, ["--format", form, "--dtype", "float16"]),
    ):
        result = invoke("convert", source, "-o", new, *options)
        assert result.returncode == 2, result.stderr
        assert "choose another folder" in result.stderr
    add_meta(features, lambda i, id_: {"changed": "since"})
    result = invoke("convert", features, "-o", new, "--format", form)
    assert result.returncode == 2
    assert "holds another conversion (the features differ)" in result.stderr
    assert contents(new) == before


REMOVED = {
    "pt": ["shard-00001.pt shard-00001.jsonl stats-00001.json", "failures.jsonl"],
    "csv": ["part-00001.csv", "_failures.jsonl"],
    "kaldi": ["feats-00001.ark", "feats-00000.scp", "feats.scp", "utt2dur", "clips.jsonl"],
    "lhotse": ["part-00001", "cuts.jsonl.gz"],
    "webdataset": ["shard-00001.tar"],
}


@pytest.mark.parametrize("form", REMOVED)
def test_what_was_removed_from_a_finished_conversion_is_written_again(form, features, tmp_path, invoke):
    arguments = ["convert", features, "-o", tmp_path / "new", "--format", form, *(["--frames"] * (form == "csv"))]
    assert invoke(*arguments).returncode == 0
    before = files_below(tmp_path / "new")
    for names in REMOVED[form]:
        for name in names.split():
            path = tmp_path / "new" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        result = invoke(*arguments)
        assert result.returncode == 0, result.stderr
        assert "is complete already" not in result.stderr
        assert files_below(tmp_path / "new") == before
    assert "is complete already" in invoke(*arguments).stderr


def test_features_that_were_not_converted_are_refused(features, tmp_path, invoke):
    new = shutil.copytree(features, tmp_path / "new")
    result = invoke("convert", features, "-o", new, "--format", "npy")
    assert result.returncode == 2
    assert "holds features that were not converted" in result.stderr
