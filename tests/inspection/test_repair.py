"""hlfeat repair: whatever is damaged in whatever way, repair and the next run give the bytes of an undamaged run.

That is so of folders that one run has written. Where a folder grew, the clips may be divided into shards otherwise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hlfeat import FeatureStore
from hlfeat.inspection import rebuild
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import DirectoryLock
from tests import helpers, in_process
from tests.extraction.runs import contents

SETTINGS = ["--set", "frontend.n_filters=8", "--set", "frontend.num_groups=4", "--shard-size", "4", "-q"]
PARTS = [["--part", "1/2"], ["--part", "2/2"]]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path) -> None:
    """One bit, in what every kind of file checks: the structure of text, the values of features."""
    data = bytearray(path.read_bytes())
    place = data.index(b'"') if path.suffix in (".jsonl", ".json") else len(data) * 2 // 3
    data[place] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(500))


WAYS = [truncate, flip, empty, Path.unlink, garbage]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, and folders of their features: as one and in parts, .npy and .pt, pooled. Not to be changed."""
    tmp = tmp_path_factory.mktemp("made")
    clips = helpers.good_clips(tmp / "clips", 12, longest=1.0)
    soundfile.write(clips / "d1" / "q silent.wav", np.zeros(8000), 16000)
    (clips / "d0" / "e.wav").write_bytes(b"")
    (clips / "g.flac").write_bytes(b"text")
    for name, options in {"npy": [], "pt": ["--format", "pt"], "pooled": ["--pool", "mean+std"]}.items():
        assert extract(tmp, name, options).returncode == 3
    for part in PARTS:
        extract(tmp, "parts", part)
    return tmp


def extract(tmp: Path, name: str, options: list[str] = []) -> subprocess.CompletedProcess[str]:  # noqa: B006
    return in_process.invoke("extract", "clips", "-o", name, *SETTINGS, *options, cwd=tmp)


OPTIONS = {"npy": [[]], "pt": [["--format", "pt"]], "pooled": [["--pool", "mean+std"]], "parts": PARTS}


@pytest.fixture
def tmp(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "tmp")
    return tmp_path / "tmp"


def restored(tmp: Path, made: Path, name: str) -> None:
    """Repair, run again, and compare with what was there before."""
    done = in_process.invoke("repair", name, cwd=tmp)
    assert done.returncode == 0, done.stdout + done.stderr
    again = in_process.invoke("repair", name, cwd=tmp)
    assert again.stdout == f"{name}: nothing is damaged\n", again.stdout
    for options in OPTIONS[name]:
        assert extract(tmp, name, options).returncode == 3
    assert_same(contents(tmp / name), contents(made / name))
    assert in_process.invoke("inspect", "--verify", name, cwd=tmp).returncode == 0


def assert_same(a: dict[str, bytes], b: dict[str, bytes]) -> None:
    """The same files; of failures that were lost, the shard may be a later one."""
    assert set(a) == set(b)
    for name in a:
        x, y = a[name], b[name]
        if name.startswith("failures"):
            x, y = (without_shard(data) for data in (x, y))
        assert x == y, name


def without_shard(lines: bytes) -> list[dict]:
    records = [json.loads(line) for line in lines.splitlines()]
    return [{key: value for key, value in record.items() if key != "shard"} for record in records]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("pattern", ["shard-*1.npy", "shard-*1.jsonl", "stats-*0.json", "failures.jsonl"])
def test_damage_of_each_kind_of_file(made: Path, tmp: Path, pattern: str, way: Callable[[Path], None]) -> None:
    (path,) = (tmp / "npy").glob(pattern)
    way(path)
    restored(tmp, made, "npy")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pt", "shard-00001.pt"),
        ("pooled", "shard-00001.npy"),
        ("parts", "shard-p2of2-00000.npy"),
        ("parts", "shard-p1of2-00001.jsonl"),
        ("parts", "failures-p1of2.jsonl"),
        ("parts", "failures.jsonl"),
    ],
)
def test_damage_of_other_folders(made: Path, tmp: Path, name: str, file: str, way: Callable[[Path], None]) -> None:
    way(tmp / name / file)
    restored(tmp, made, name)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("file", ["report.json", "report-p1of2.json"])
def test_damage_of_reports(made: Path, tmp: Path, file: str, way: Callable[[Path], None]) -> None:
    name = "npy" if file == "report.json" else "parts"
    way(tmp / name / file)
    restored(tmp, made, name)
    facts = json.loads(in_process.invoke("inspect", "--json", name, cwd=tmp).stdout)
    assert facts["complete"], facts["missing"]


def test_all_at_once(made: Path, tmp: Path) -> None:
    empty(tmp / "npy/shard-00000.npy")
    flip(tmp / "npy/shard-00001.jsonl")
    (tmp / "npy/shard-00002.npy").unlink()
    truncate(tmp / "npy/stats-00003.json")
    garbage(tmp / "npy/failures.jsonl")
    (tmp / "npy/report.json").unlink()
    done = in_process.invoke("repair", "npy", "--force", cwd=tmp)
    assert done.returncode == 0, done.stdout
    restored(tmp, made, "npy")


@pytest.mark.parametrize("seed", range(30))
def test_any_flipped_byte_of_features(made: Path, tmp: Path, seed: int) -> None:
    """Headers and the structure of .pt among them: numpy and torch have errors of many types."""
    name = ("npy", "pt")[seed % 2]
    rng = np.random.default_rng(seed)
    path = tmp / name / f"shard-00001.{name}"
    data = bytearray(path.read_bytes())
    place = int(rng.integers(min(len(data), 300) if seed < 16 else len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    verified = in_process.invoke("inspect", "--verify", name, cwd=tmp)
    done = in_process.invoke("repair", name, cwd=tmp)
    assert (done.returncode, done.stderr) == (0, "")
    assert (verified.returncode == 0) == (done.stdout == f"{name}: nothing is damaged\n")
    if verified.returncode == 0:  # padding of the zip
        return
    extract(tmp, name, OPTIONS[name][0])
    assert_same(contents(tmp / name), contents(made / name))


def test_what_it_says(made: Path, tmp: Path) -> None:
    before = contents(tmp / "npy")
    assert in_process.invoke("repair", "npy", cwd=tmp).stdout == "npy: nothing is damaged\n"
    assert contents(tmp / "npy") == before
    truncate(tmp / "npy/shard-00001.npy")
    truncate(tmp / "npy/stats-00002.json")
    damaged = contents(tmp / "npy")
    dry = in_process.invoke("repair", "npy", "-n", cwd=tmp)
    assert dry.returncode == 0
    assert contents(tmp / "npy") == damaged
    lines = dry.stdout.splitlines()
    assert lines[0].startswith("npy/shard-00001.npy: damaged: expected ")
    assert lines[0].endswith(": taken back: 4 clips to be computed again")
    assert lines[1].startswith("npy/stats-00002.json: damaged: ")
    assert lines[1].endswith(": made again from the features")
    assert lines[2:] == [
        "nothing was changed",
        "to compute 4 clips or more again, run the same command as before:",
        "  hlfeat extract INPUTS -o npy",
    ]
    wet = in_process.invoke("repair", "npy", cwd=tmp).stdout.splitlines()
    assert wet == [line for line in lines if line != "nothing was changed"]
    assert (tmp / "npy/stats-00002.json").read_bytes() == (made / "npy/stats-00002.json").read_bytes()
    assert not list((tmp / "npy").glob("*-00001.*"))
    empty(tmp / "parts/shard-p2of2-00001.npy")
    assert "  hlfeat extract INPUTS -o parts --part 2/2" in in_process.invoke("repair", "parts", cwd=tmp).stdout


def test_a_converted_folder_is_converted_again(made: Path, tmp: Path) -> None:
    convert = ["convert", "npy", "-o", "new", "--format", "pt", "--dtype", "float32", "--shard-size", "5"]
    assert in_process.invoke(*convert, "-q", cwd=tmp).returncode == 0
    truncate(tmp / "new/shard-00001.pt")
    done = in_process.invoke("repair", "new", cwd=tmp)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "to compute 5 clips or more again, run the same command as before:",
        "  hlfeat " + " ".join(convert),
    ]


def test_a_folder_that_grew_has_the_same_features_again(tmp: Path) -> None:
    for folder in ("d0", "d1", ""):
        in_process.invoke("extract", f"clips/{folder}", "--root", "clips", "-o", "grown", *SETTINGS, cwd=tmp)
    before = {id_: features.tobytes() for id_, features in FeatureStore(tmp / "grown")}
    assert len(before) == 13
    truncate(tmp / "grown/shard-00000.npy")
    assert in_process.invoke("repair", "grown", cwd=tmp).returncode == 0
    assert in_process.invoke("extract", "clips", "--root", "clips", "-o", "grown", *SETTINGS, cwd=tmp).returncode == 3
    assert {id_: features.tobytes() for id_, features in FeatureStore(tmp / "grown")} == before
    assert in_process.invoke("inspect", "--verify", "grown", cwd=tmp).returncode == 0


def test_extract_names_repair(tmp: Path) -> None:
    for file, way in [("shard-00001.npy", truncate), ("shard-00000.jsonl", flip), ("failures.jsonl", garbage)]:
        shutil.copytree(tmp / "npy", tmp / "one")
        way(tmp / "one" / file)
        done = extract(tmp, "one")
        assert done.returncode == 1
        assert f"one/{file}: " in done.stderr
        assert "; hlfeat repair takes back what is damaged\n" in done.stderr
        shutil.rmtree(tmp / "one")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_cannot_be_repaired(tmp: Path, way: Callable[[Path], None]) -> None:
    path = tmp / "npy/hlfeat.yaml"
    if way is flip:
        path.write_text(path.read_text().replace("n_filters: 8", "n_filters: 9"))
    else:
        way(path)
    before = contents(tmp / "npy")
    done = in_process.invoke("repair", "npy", cwd=tmp)
    assert done.returncode == 1
    assert "npy/hlfeat.yaml: " in done.stdout + done.stderr
    assert "it cannot be made again" in done.stdout + done.stderr
    assert contents(tmp / "npy") == before
    assert in_process.invoke("repair", "clips", cwd=tmp).returncode == 2
    assert in_process.invoke("repair", "nowhere", cwd=tmp).returncode == 2
    assert not (tmp / "nowhere").exists()


def test_clips_whose_audio_is_gone_are_not_given_up(made: Path, tmp: Path) -> None:
    (tmp / "clips").rename(tmp / "elsewhere")
    flip(tmp / "npy/shard-00001.npy")
    before = contents(tmp / "npy")
    done = in_process.invoke("repair", "npy", cwd=tmp)
    assert done.returncode == 1
    assert "kept, as the audio of 4 clips is not there (clips/d" in done.stdout
    assert "--force" in done.stdout
    assert contents(tmp / "npy") == before
    done = in_process.invoke("repair", "npy", "--force", cwd=tmp)
    assert done.returncode == 0
    (tmp / "elsewhere").rename(tmp / "clips")
    extract(tmp, "npy")
    assert_same(contents(tmp / "npy"), contents(made / "npy"))


@pytest.mark.parametrize("name", ["npy", "pt", "pooled"])
@pytest.mark.parametrize("offset", [0, -2])
def test_a_line_that_cannot_be_read_may_be_of_audio_that_is_gone(tmp: Path, name: str, offset: int) -> None:
    """Intact features, whose index has one wrong byte, in the first or in the last line."""
    (tmp / "clips").rename(tmp / "elsewhere")
    path = tmp / name / "shard-00001.jsonl"
    data = bytearray(path.read_bytes())
    data[offset] = ord("x")
    path.write_bytes(data)
    assert kept(tmp, name) == "kept, as the audio of 3 clips is not there"


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_an_index_that_was_cut_between_two_lines(tmp: Path, lines: int) -> None:
    """What is left of it, or else the other shards' indexes, says whether the audio is there."""
    for name in ("npy", "pt"):
        path = tmp / name / "shard-00001.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    assert in_process.invoke("repair", "npy", cwd=tmp).returncode == 0
    (tmp / "clips").rename(tmp / "elsewhere")
    assert kept(tmp, "pt") in (
        "kept, as its index does not tell its clips, and their audio may be gone",
        f"kept, as the audio of {lines} clip{'s' if lines > 1 else ''} is not there",
    )


def test_no_index_tells_whether_the_audio_is_there(tmp: Path) -> None:
    for path in (tmp / "npy").glob("shard-*.jsonl"):
        garbage(path)
    assert kept(tmp, "npy") == "kept, as its index does not tell its clips, and their audio may be gone"


def test_features_without_an_index_are_kept_where_audio_is_gone(made: Path, tmp: Path) -> None:
    (tmp / "npy/shard-00000.jsonl").unlink()
    (tmp / "clips").rename(tmp / "elsewhere")
    assert kept(tmp, "npy") == "kept, as nothing tells whose it is"
    (tmp / "elsewhere").rename(tmp / "clips")
    assert in_process.invoke("repair", "npy", cwd=tmp).returncode == 0
    assert not list((tmp / "npy").glob("*-00000.*"))
    assert extract(tmp, "npy").returncode == 3
    assert_same(contents(tmp / "npy"), contents(made / "npy"))


def replace_by_another(path: Path) -> None:
    soundfile.write(path, helpers.tone(0.5, 16000, 300), 16000)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 1))


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (replace_by_another, "kept, as the audio of 1 clip has changed since it was read"),
        (touch, "kept, as the audio of 1 clip has changed since it was read"),
        (link_to_nothing, "kept, as the audio of 1 clip is not there"),
    ],
)
def test_features_of_a_file_that_is_another_one_now_are_kept(tmp: Path, way: Callable[[Path], None], said: str) -> None:
    flip(tmp / "npy/shard-00001.npy")
    entry = json.loads((tmp / "npy/shard-00001.jsonl").read_bytes().splitlines()[0])
    way(tmp / entry["path"])
    assert kept(tmp, "npy") == said
    assert entry["path"] in in_process.invoke("repair", "npy", cwd=tmp).stdout


def kept(tmp: Path, name: str) -> str:
    """Why repair keeps what is damaged in a folder, without taking anything back; its second column."""
    before = contents(tmp / name)
    done = in_process.invoke("repair", name, cwd=tmp)
    assert done.returncode == 1, done.stdout
    assert contents(tmp / name) == before
    (said,) = {f"kept, {m}" for m in re.findall(r"kept, (as .*?)(?: \(|: )", done.stdout)}
    return said


def test_a_part_of_which_a_shard_was_taken_back_is_not_done(made: Path, tmp: Path) -> None:
    (tmp / "parts/shard-p2of2-00000.jsonl").rename(tmp / "away.jsonl")
    missing = json.loads(in_process.invoke("inspect", "--json", "parts", cwd=tmp).stdout)["missing"]
    assert len(missing) == 1
    assert missing[0].startswith("report-p2of2.json is of ")
    (tmp / "away.jsonl").rename(tmp / "parts/shard-p2of2-00000.jsonl")
    flip(tmp / "parts/shard-p2of2-00000.npy")
    assert in_process.invoke("repair", "parts", cwd=tmp).returncode == 0
    facts = json.loads(in_process.invoke("inspect", "--json", "parts", cwd=tmp).stdout)
    assert facts["missing"] == ["no report-p2of2.json: that part is not done"]
    converted = in_process.invoke("convert", "parts", "-o", "new", "--format", "npy", cwd=tmp)
    assert (converted.returncode, "is not complete" in converted.stderr) == (1, True), converted.stderr
    assert extract(tmp, "parts", PARTS[1]).returncode == 3
    assert_same(contents(tmp / "parts"), contents(made / "parts"))


def test_which_clips_are_silent_is_known_again(made: Path, tmp: Path) -> None:
    (path,) = [p for p in (tmp / "npy").glob("stats-*.json") if json.loads(p.read_bytes())["silent"]]
    garbage(path)
    assert in_process.invoke("repair", "npy", cwd=tmp).returncode == 0
    assert path.read_bytes() == (made / "npy" / path.name).read_bytes()
    shutil.rmtree(tmp / "clips")  # then from the damaged file, as far as it can be read
    path.write_text(path.read_text().replace('"clips": ', '"clips": 1'))
    assert in_process.invoke("repair", "npy", cwd=tmp).returncode == 0
    assert path.read_bytes() == (made / "npy" / path.name).read_bytes()


def test_of_which_clips_silence_is_not_known_is_said(tmp: Path) -> None:
    """Where the audio is gone, has changed, or is in an archive."""
    (tmp / "clips").rename(tmp / "elsewhere")
    garbage(tmp / "npy/stats-00000.json")
    done = in_process.invoke("repair", "npy", cwd=tmp)
    assert done.stdout.endswith(": made again from the features (of 4 clips it is not known whether they are silent)\n")
    (tmp / "elsewhere").rename(tmp / "clips")
    touch(tmp / json.loads((tmp / "npy/shard-00000.jsonl").read_bytes().splitlines()[0])["path"])
    garbage(tmp / "npy/stats-00000.json")
    done = in_process.invoke("repair", "npy", cwd=tmp)
    assert done.stdout.endswith(": made again from the features (of 1 clip it is not known whether they are silent)\n")


def test_statistics_of_long_clips_are_summed_piece_by_piece(
    made: Path, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "WHOLE_BYTES", 0)
    monkeypatch.setattr("hlfeat.storage.feature_format.PIECE", 1000)
    path = tmp / "npy/stats-00000.json"
    garbage(path)
    assert in_process.invoke("repair", "npy", cwd=tmp).returncode == 0
    new, old = (json.loads(p.read_bytes()) for p in (path, made / "npy/stats-00000.json"))
    np.testing.assert_allclose(new["mean"], old["mean"], rtol=1e-12)
    assert in_process.invoke("inspect", "--verify", "npy", cwd=tmp).returncode == 0


def test_a_run_at_work_is_left_alone(tmp: Path) -> None:
    lock = DirectoryLock(Layout(tmp / "npy"))
    try:
        done = in_process.invoke("repair", "npy", cwd=tmp)
    finally:
        lock.release()
    assert done.returncode == 1
    assert "another run is writing" in done.stderr


def test_a_repair_that_is_killed_can_be_run_again(made: Path, tmp: Path) -> None:
    """Killed after each file that it removes or writes."""
    for i in range(4):
        truncate(tmp / f"npy/shard-0000{i}.npy") if i % 2 else garbage(tmp / f"npy/stats-0000{i}.json")
    code = """
import os, signal, sys
import pathlib
steps = int(sys.argv.pop(1))
def counted(call):
    def step(*args, **kwargs):
        global steps
        result = call(*args, **kwargs)
        if str(args[0]).startswith("npy") and "lock" not in str(args[0]):
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return result
    return step
pathlib.Path.unlink, pathlib.Path.replace = counted(pathlib.Path.unlink), counted(pathlib.Path.replace)
from hlfeat.cli.app import main
main()
"""
    killed = 0
    for steps in (1, 2, 3, 1, 2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(steps), "repair", "npy"], cwd=tmp, capture_output=True, text=True
        )
        killed += done.returncode == -signal.SIGKILL
    assert killed >= 3
    restored_after_kills = in_process.invoke("repair", "npy", cwd=tmp)
    assert restored_after_kills.returncode == 0
    extract(tmp, "npy")
    assert_same(contents(tmp / "npy"), contents(made / "npy"))


# --- pitch tracks ----------------------------------------------------------------------------------------------------


def test_lost_pitch_tracks(made: Path, tmp: Path) -> None:
    assert in_process.invoke("pitch", "clips", "-o", "pitch", "-q", cwd=tmp).returncode == 3
    before = contents(tmp / "pitch")
    tracks = sorted((tmp / "pitch").rglob("*.f0.csv"))
    tracks[0].unlink()
    done = in_process.invoke("pitch", "clips", "-o", "pitch", "-q", cwd=tmp)
    assert (done.returncode, "hlfeat repair" in done.stderr) == (1, True)
    done = in_process.invoke("repair", "pitch", cwd=tmp)
    assert done.returncode == 0
    assert "hlfeat pitch INPUTS -o pitch" in done.stdout
    in_process.invoke("pitch", "clips", "-o", "pitch", "-q", cwd=tmp)
    assert contents(tmp / "pitch") == before
    with open(tracks[1], "a") as f:
        f.write("9.000,440.000,1.000000\n")
    tracks[0].unlink()
    edited = contents(tmp / "pitch")
    done = in_process.invoke("repair", "pitch", cwd=tmp)
    assert done.returncode == 1
    assert "kept, as it may have been edited" in done.stdout
    assert contents(tmp / "pitch") == edited
    tracks[1].unlink()
    assert in_process.invoke("repair", "pitch", cwd=tmp).returncode == 0
    in_process.invoke("pitch", "clips", "-o", "pitch", "-q", cwd=tmp)
    assert contents(tmp / "pitch") == before
