"""Runs in parts: names, shares, and one folder written by many."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hlfeat as package
from hlfeat.cli.parts import parse_part
from hlfeat.errors import InterruptedRunError, OutputError, UsageError
from hlfeat.extraction.options import Options
from hlfeat.extraction.progress import Progress
from hlfeat.inputs.collect import collect_inputs
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.layout import FileName, Layout
from tests import helpers
from tests.conftest import command
from tests.extraction.runs import CHEAP, contents, run


@given(n=st.integers(0, 50), of=st.integers(1, 12), split=st.integers(1, 4))
def test_parts_are_disjoint_complete_and_in_order(n, of, split):
    clips = list(range(n))
    parts = WHOLE.split(of)
    assert [c for p in parts for c in clips[p.slice(n)]] == clips
    assert {len(clips[p.slice(n)]) for p in parts} <= {n // of, -(-n // of)}
    smaller = [q for p in parts for q in p.split(split)]
    assert smaller == WHOLE.split(of * split)
    names = [Layout(Path(), p).index(i).name for p in parts for i in (0, 7)]
    assert sorted(names) == names
    assert [Layout.parse(name) for name in names] == [FileName("index", p, i, False) for p in parts for i in (0, 7)]


def test_names():
    assert [Layout(Path()).shard_name(3), str(Layout(Path()).failures)] == ["shard-00003", "failures.jsonl"]
    assert Layout(Path(), Part(16, 2)).shard_name(3) == "shard-p02of16-00003"
    assert str(Layout(Path(), Part(4, 2)).failures) == "failures-p2of4.jsonl"
    assert Layout.parse("shard-x") is None
    assert parse_part("2/8") == Part(8, 2)
    for wrong in ("0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3", ""):
        with pytest.raises(UsageError, match="--part"):
            parse_part(wrong)


def part_run(clips, out, part, *more, **options):
    return run(clips, out, *more, options=Options(quiet=True, part=part, **options))


def test_parts_in_one_folder_are_the_whole(clips, tmp_path):
    helpers.broken_clips(clips / "e-broken")
    run(clips, tmp_path / "whole", "output.shard_size=3")
    want = package.FeatureStore(tmp_path / "whole")
    out = tmp_path / "out"
    for part in (Part(3, 2), Part(3, 3), Part(3, 1)):
        assert not (out / "failures.jsonl").exists()
        report = part_run(clips, out, part, "output.shard_size=3")
    assert report.complete
    found = package.FeatureStore(out)
    assert found.ids == want.ids
    for id_, y in want:
        assert np.array_equal(found[id_], y)

    def failures(folder):
        lines = map(json.loads, (folder / "failures.jsonl").read_text().splitlines())
        return [{**f, "shard": ""} for f in lines]

    assert failures(out) == failures(tmp_path / "whole")
    total = json.loads((out / "report.json").read_text())
    assert (total["parts"], total["clips"], total["failures"]) == (3, len(want), len(failures(out)))
    before = contents(out)
    part_run(clips, out, Part(3, 2), "output.shard_size=3")  # done already
    assert contents(out).keys() == before.keys()
    assert {k: v for k, v in contents(out).items() if "report" not in k} == {
        k: v for k, v in before.items() if "report" not in k
    }


def test_skipped_files_are_reported_once_by_all_parts(clips, tmp_path):
    (clips / ".trash").mkdir()
    for name in ("a.txt", "d0/b.txt", "c.jpg"):
        (clips / name).touch()
    skipped = {".jpg": 1, ".txt": 2}
    config = package.load_config(overrides=CHEAP)
    reports = [run(clips, tmp_path / "whole").as_dict()]
    reports += [package.extract(config, [clips], tmp_path / "two", package.Options(device="cpu,cpu")).as_dict()]
    reports += [part_run(clips, tmp_path / "parts", part).as_dict() for part in WHOLE.split(3)]
    reports += [json.loads((tmp_path / out / "report.json").read_text()) for out in ("whole", "two", "parts")]
    for report in reports:
        assert (report["skipped"], report["hidden_folders"]) == (skipped, 1)


def test_more_parts_than_clips(tmp_path, clips):
    inputs = collect_inputs([str(clips)], io.BytesIO())
    inputs.clips = inputs.clips[:2]
    for part in WHOLE.split(3):
        report = part_run(inputs, tmp_path / "out", part)
    assert report.complete
    assert len(package.FeatureStore(tmp_path / "out")) == 2


def test_a_part_of_nothing_but_failures_is_a_part_too(tmp_path):
    bad = tmp_path / "bad"
    helpers.broken_clips(bad)
    inputs, out = collect_inputs([str(bad)], io.BytesIO()), tmp_path / "out"
    inputs.clips = [clip for clip in inputs.clips if clip.id.endswith(".flac")][:1]
    part_run(inputs, out, Part(2, 2))
    assert not list(out.glob("shard-*"))
    with pytest.raises(UsageError, match="a run in 2 parts, not in 3 parts"):
        part_run(inputs, out, Part(3, 3))
    with pytest.raises(UsageError, match="a run in 2 parts, not in one part"):
        run(bad, out)


def test_parts_that_do_not_belong_together(clips, tmp_path):
    out = tmp_path / "out"
    part_run(clips, out, Part(2, 1))
    with pytest.raises(UsageError, match="a run in 2 parts, not in 3 parts"):
        part_run(clips, out, Part(3, 1))
    with pytest.raises(UsageError, match="a run in 2 parts, not in one part"):
        run(clips, out)
    with pytest.raises(UsageError, match="another configuration"):
        part_run(clips, out, Part(2, 2), "seed=5")
    with pytest.raises(UsageError, match="overwrite: expected without parts"):
        part_run(clips, out, Part(2, 2), overwrite=True)
    run(clips, out, options=Options(quiet=True, overwrite=True))  # the whole may, as it is alone
    assert not list(out.glob("*p1of2*"))


def test_parts_of_another_list(clips, tmp_path):
    out = tmp_path / "out"
    part_run(clips, out, Part(2, 1))
    shutil.copy(min(clips.rglob("*.wav")), clips / "d0/new.wav")
    for part in (Part(2, 1), Part(2, 2)):
        with pytest.raises(UsageError, match=r"parts of another list of clips \(12 then, 13 now\)"):
            part_run(clips, out, part)
    (clips / "d0/new.wav").unlink()
    part_run(clips, out, Part(2, 2))
    assert len(package.FeatureStore(out)) == 12


def test_a_part_is_resumed_and_cleans_up_after_itself_alone(clips, tmp_path):
    out = tmp_path / "out"
    part_run(clips, tmp_path / "want", Part(2, 1), "output.shard_size=2")
    asked = []
    with pytest.raises(InterruptedRunError):
        run(
            clips,
            out,
            "output.shard_size=2",
            options=Options(quiet=True, part=Part(2, 1), workers=1),
            stopped=lambda: (asked.append(1), len(asked) > 4)[1],
        )
    (out / "shard-p1of2-00009.npy.tmp").touch()
    (out / "shard-p2of2-00000.npy.tmp").touch()  # the other part's, which may be at work
    (out / "hlfeat-p1of2.lock").touch()  # a killed run leaves the file, but not the lock
    part_run(clips, out, Part(2, 1), "output.shard_size=2")
    assert (out / "shard-p2of2-00000.npy.tmp").exists()
    (out / "shard-p2of2-00000.npy.tmp").unlink()
    same = {k: v for k, v in contents(out).items() if not k.startswith("report")}
    assert same == {k: v for k, v in contents(tmp_path / "want").items() if not k.startswith("report")}


def test_a_process_a_device(clips, tmp_path, hlfeat):
    helpers.broken_clips(clips / "e-broken")
    settings = [x for s in CHEAP for x in ("--set", s)]
    done = hlfeat("extract", clips, "-o", tmp_path / "out", *settings, "--shard-size", 4, "--device", "cpu,cpu")
    assert done.returncode == 3, done.stderr
    assert sorted(done.stdout.split()) == sorted(map(str, (tmp_path / "out").glob("*.npy")))
    assert "on cpu" in done.stderr
    run(clips, tmp_path / "want", "output.shard_size=4")
    want, found = package.FeatureStore(tmp_path / "want"), package.FeatureStore(tmp_path / "out")
    assert found.ids == want.ids
    assert all(np.array_equal(found[i], want[i]) for i in want.ids)
    wrong = hlfeat("extract", clips, "-o", tmp_path / "b", *settings, "--device", "cpu,cuda:7")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "cuda:7" in wrong.stderr
    refused = hlfeat("extract", clips, "-o", tmp_path / "out", *settings, "--device", "cpu,cpu", "--set", "seed=2")
    assert refused.returncode == 2
    assert "another configuration" in refused.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_report_of_another_part(clips, tmp_path, text):
    out = tmp_path / "out"
    part_run(clips, out, parse_part("1/2"))
    (out / "report-p1of2.json").write_text(text)
    with pytest.raises(OutputError, match="report of another part is damaged"):
        part_run(clips, out, parse_part("2/2"))
    part_run(clips, out, parse_part("1/2"))
    assert (out / "report.json").exists()


def stop_parent(run: subprocess.Popen[str]) -> None:
    run.send_signal(signal.SIGTERM)


def kill_child(run: subprocess.Popen[str]) -> None:
    spawned = next(p for p in children(run.pid) if b"spawn_main" in p.read_bytes())
    os.kill(int(spawned.parent.name), signal.SIGKILL)


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [(stop_parent, 130, "the same command goes on from there"), (kill_child, 1, "died; what is finished is kept")],
)
def test_processes_that_end_early_and_go_on(tmp_path, stop, code, said):
    folder = helpers.good_clips(tmp_path / "clips", 60, longest=3.0)
    args = [command(), "extract", str(folder), "-o", str(tmp_path / "out"), "--shard-size", "1", "--device", "cpu,cpu"]
    args += ["-c", "leaf"]  # slow enough to be at work still
    first = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()  # a shard is done
    stop(first)
    _, err = first.communicate(timeout=120)
    assert first.returncode == code, err
    assert said in err
    again = subprocess.run(args, capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 0, again.stderr
    assert len(package.FeatureStore(tmp_path / "out")) == 60


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_processes_stopped_while_they_start(tmp_path, how):
    """Ctrl-C reaches them too, when they have no word in it yet."""
    folder = helpers.good_clips(tmp_path / "clips", 60, longest=3.0)
    args = [command(), "extract", str(folder), "-o", str(tmp_path / "out"), "--device", "cpu,cpu"]
    run = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while b"spawn_main" not in (started := b"".join(map(Path.read_bytes, children(run.pid)))):
        assert run.poll() is None, started
        time.sleep(0.05)
    os.killpg(run.pid, how)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    assert err.count("\n") == 1, err


def children(pid: int) -> Iterator[Path]:
    """The command lines of a process's children."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return (Path(f"/proc/{child}/cmdline") for child in (listed.read_text() if listed.exists() else "").split())


def test_extract_takes_several_devices_and_reports_of_all(clips, tmp_path):
    config = package.load_config(overrides=CHEAP)
    options = package.Options(device="cpu,cpu", quiet=True)
    counters = []

    def progress(*about):
        counters.append(Progress(*about))
        return counters[-1]

    report = package.extract(config, [clips], tmp_path / "out", options, progress=progress)
    assert (report.clips, report.failures, report.parts, report.complete) == (12, [], 2, True)
    assert [(c.total, c.clips) for c in counters] == [(12, 12)]
    assert len(package.FeatureStore(tmp_path / "out")) == 12
    assert report.as_dict()["clips"] == json.loads((tmp_path / "out/report.json").read_text())["clips"]
    again = package.extract(config, [clips], tmp_path / "out", options)
    assert (again.clips, again.clips_before) == (0, 12)
