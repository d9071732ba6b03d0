"""report.json after a run that ended early, and what reads it; the versions that took part."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

import hlfeat as library
from hlfeat.storage.layout import Layout
from hlfeat.versions import versions
from tests import helpers
from tests.conftest import command
from tests.extraction.runs import contents

SLOW = ["-c", "leaf", "--shard-size", "1"]  # so that a run is at work still when it is stopped
SMALL = ["-c", "log-mel", "--set", "frontend.n_filters=8", "--shard-size", "4"]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def stop_after_a_shard(*args: object, by: int) -> subprocess.CompletedProcess[str]:
    """The command, which gets a signal once it has printed a path."""
    call = [command(), *map(str, args)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(by)
        out, err = run.communicate(timeout=120)
    return subprocess.CompletedProcess(call, run.returncode, out, err)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return helpers.good_clips(tmp_path / "clips", 40, longest=3.0)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_reports(hlfeat, many, tmp_path, by):
    out = tmp_path / "out"
    run = ["extract", many, "-o", out, *SLOW]
    stopped = stop_after_a_shard(*run, by=by)
    assert stopped.returncode == 130, stopped.stderr
    report = read(out / "report.json")
    done = len(list(out.glob("shard-*.jsonl")))
    assert 1 <= done < 40
    assert (report["complete"], report["interrupted"]) == (False, "asked to stop")
    assert (report["clips"], report["clips_this_run"], report["failures"]) == (done, done, 0)
    assert report["seconds"]["total"] > 0
    assert sum(report["sample_rates"].values()) == done
    assert not list(out.glob("*.tmp"))
    inspected = hlfeat("inspect", out)
    assert inspected.returncode == 0
    assert "  complete  no: report.json: the run was interrupted (asked to stop)\n" in inspected.stdout
    assert read_json(hlfeat("inspect", out, "--json"))["complete"] is False
    assert hlfeat(*run).returncode == 0
    report = read(out / "report.json")
    assert (report["complete"], report["clips"], "interrupted" in report) == (True, 40, False)
    assert sum(report["sample_rates"].values()) == 40
    assert "  complete  yes\n" in hlfeat("inspect", out).stdout
    assert hlfeat("extract", many, "-o", tmp_path / "want", *SLOW).returncode == 0
    assert contents(out) == contents(tmp_path / "want")


def read_json(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_after_a_kill_the_report_is_of_a_run_that_is_not_complete(hlfeat, many, tmp_path):
    """Also where an earlier run of fewer clips came to its end; one with nothing to do begins nothing."""
    out, few = tmp_path / "out", many / "d0"
    assert hlfeat("extract", few, "-o", out, *SLOW).returncode == 0
    before = read(out / "report.json")
    assert before["complete"] is True
    killed = stop_after_a_shard("extract", few, many / "d1", "-o", out, *SLOW, by=signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    report = read(out / "report.json")
    assert (report["complete"], report["interrupted"]) == (False, "it is at work, or was killed")
    assert report["clips"] == before["clips"]
    inspected = hlfeat("inspect", out).stdout
    assert "  complete  no: report.json: the run was interrupted (it is at work, or was killed)\n" in inspected
    assert hlfeat("extract", few, "-o", out, *SLOW).returncode == 0  # nothing to do
    assert read(out / "report.json")["complete"] is True


def test_a_run_that_fails_reports_why(invoke, clips, tmp_path):
    helpers.broken_clips(clips / "e-broken")
    out = tmp_path / "out"
    for options, reason in (
        (["--max-failures", "2"], "max_failures: more than 2 clips failed"),
        (["--on-error", "stop"], "on_error: stopped at "),
    ):
        assert invoke("extract", clips, "-o", out, *SMALL, *options, "--overwrite").returncode == 1
        report = read(out / "report.json")
        assert report["complete"] is False
        assert report["interrupted"].startswith(reason)
        finished = sum(len(index.read_text().splitlines()) for index in out.glob("shard-*.jsonl"))
        assert report["clips"] == finished < 12  # without those of the shard that was open
        assert report["failures"] == len((out / "failures.jsonl").read_text().splitlines())
    done = invoke("extract", clips, "-o", out, *SMALL)
    assert done.returncode == 3
    assert read(out / "report.json")["complete"] is True


def test_an_interrupted_part_is_not_done(hlfeat, many, tmp_path):
    """Neither for `inspect`, nor for the part that is the last, nor for a job that asks which part it does."""
    out = tmp_path / "out"
    run = ["extract", many, "-o", out, *SLOW, "--part"]
    assert stop_after_a_shard(*run, "1/2", by=signal.SIGTERM).returncode == 130
    path = Layout(out, library.Part(2, 1)).report
    assert read(path)["complete"] is False
    assert hlfeat(*run, "2/2").returncode == 0
    assert not (out / "report.json").exists()
    inspected = hlfeat("inspect", out).stdout
    assert "  complete  no: report-p1of2.json: the run was interrupted (asked to stop)\n" in inspected
    killed = stop_after_a_shard(*run, "1/2", by=signal.SIGKILL)  # begun again
    assert killed.returncode == -signal.SIGKILL
    assert (read(path)["complete"], (out / "report.json").exists()) == (False, False)
    inspected = hlfeat("inspect", out).stdout
    assert "no: report-p1of2.json: the run was interrupted (it is at work, or was killed)\n" in inspected
    assert hlfeat(*run, "2/2").returncode == 0  # nothing to do, and not the last
    assert not (out / "report.json").exists()
    assert hlfeat(*run, "1/2").returncode == 0
    assert (read(path)["complete"], read(out / "report.json")["complete"]) == (True, True)
    assert "  complete  yes\n" in hlfeat("inspect", out).stdout
    assert sum(read(out / "report.json")["sample_rates"].values()) == 40


def test_reports_of_earlier_versions_are_complete(invoke, clips, tmp_path):
    out = tmp_path / "out"
    for part in ("1/2", "2/2"):
        assert invoke("extract", clips, "-o", out, *SMALL, "--part", part).returncode == 0
    path = out / "report-p1of2.json"
    report = {k: v for k, v in read(path).items() if k not in ("complete", "sample_rates", "notes")}
    path.write_text(json.dumps({**report, "versions": report["versions"][0]}))
    (out / "report.json").unlink()
    assert invoke("extract", clips, "-o", out, *SMALL, "--part", "2/2").returncode == 0
    merged = read(out / "report.json")
    assert (merged["complete"], merged["clips"], merged["versions"]) == (True, 12, [versions()])
    assert "  complete  yes\n" in invoke("inspect", out).stdout


# --- versions ------------------------------------------------------------------------------------------------------


def with_torch(path: Path, version: str) -> None:
    """Have a folder's file say that another version of torch wrote it."""
    text = re.sub(r'(\btorch"?: "?)[^",\n]+', rf"\g<1>{version}", path.read_text())
    assert version in text
    path.write_text(text)


def about_versions(report: dict[str, Any]) -> list[str]:
    return [note for note in report["notes"] if "different versions" in note]


def test_versions_of_all_runs(invoke, clips, tmp_path):
    """An upgrade half-way is told once and noted; hlfeat.yaml keeps who began the folder."""
    out, first = tmp_path / "out", tmp_path / "clips/d0"
    run = ["-o", out, *SMALL]
    assert invoke("extract", first, *run).returncode == 0
    assert read(out / "report.json")["versions"] == [versions()]
    assert about_versions(read(out / "report.json")) == []
    for path in (out / "report.json", out / "hlfeat.yaml"):
        with_torch(path, "2.1.0")
    before = (out / "hlfeat.yaml").read_bytes()
    nothing = invoke("extract", first, *run)
    assert "different versions" not in nothing.stderr  # it makes nothing
    assert [v["torch"] for v in read(out / "report.json")["versions"]] == ["2.1.0"]
    more = invoke("extract", first, clips / "d1", *run)
    assert more.returncode == 0, more.stderr
    note = (
        "runs with different versions have made the features, which may differ in rounding: "
        f"torch 2.1.0, then {versions()['torch']}"
    )
    assert more.stderr.count(f"hlfeat: {note}\n") == 1
    report = read(out / "report.json")
    assert [v["torch"] for v in report["versions"]] == ["2.1.0", versions()["torch"]]
    assert about_versions(report) == [note]
    assert (out / "hlfeat.yaml").read_bytes() == before
    report["versions"][1]["torch"] = "2.2.0"  # of a second run, which only its report has
    (out / "report.json").write_text(json.dumps(report))
    assert invoke("extract", first, clips / "d1", *run).returncode == 0
    assert [v["torch"] for v in read(out / "report.json")["versions"]] == ["2.1.0", "2.2.0"]
    assert invoke("extract", first, *run, "--overwrite").returncode == 0
    assert yaml.safe_load((out / "hlfeat.yaml").read_text())["versions"] == versions()
    assert read(out / "report.json")["versions"] == [versions()]


def test_versions_after_a_kill_are_those_that_began(invoke, many, tmp_path):
    out = tmp_path / "out"
    assert stop_after_a_shard("extract", many, "-o", out, *SLOW, by=signal.SIGKILL).returncode < 0
    with_torch(out / "hlfeat.yaml", "2.1.0")
    (out / "report.json").unlink()  # as earlier versions left it
    done = invoke("extract", many, "-o", out, *SLOW)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("may differ in rounding: torch 2.1.0, then ") == 1
    assert [v["torch"] for v in read(out / "report.json")["versions"]] == ["2.1.0", versions()["torch"]]


@pytest.mark.parametrize("name", ["report.json", "report-p1of2.json"])
def test_versions_of_a_run_that_was_killed(invoke, many, tmp_path, name):
    """Its shards stay, and the next run knows what made them."""
    out = tmp_path / "out"
    run = ["extract", many, "-o", out, *SLOW, *(["--part", "1/2"] if "-p" in name else [])]
    assert stop_after_a_shard(*run, by=signal.SIGKILL).returncode < 0
    with_torch(out / name, "2.1.0")
    done = invoke(*run)
    assert done.stderr.count("may differ in rounding: torch 2.1.0, then ") == 1
    assert [v["torch"] for v in read(out / name)["versions"]] == ["2.1.0", versions()["torch"]]


def test_a_part_that_begins_takes_the_report_of_all_back(hlfeat, invoke, many, tmp_path):
    """The whole was complete; then failures of a part are tried again, and the run is killed."""
    out, broken = tmp_path / "out", many / "d0/broken.wav"
    broken.write_bytes(b"")
    run = ["extract", many, "-o", out, *SMALL, "--retry-failed", "--part"]
    for part in ("1/2", "2/2"):
        hlfeat(*run, part)
    assert read(out / "report.json")["failures"] == 1
    soundfile.write(broken, helpers.tone(1, 16000), 16000)
    killed = stop_after_a_shard(*run, "1/2", by=signal.SIGKILL)
    assert not (out / "report.json").exists(), killed.stderr


def test_versions_of_parts(hlfeat, clips, tmp_path):
    out = tmp_path / "out"
    assert hlfeat("extract", clips, "-o", out, *SMALL, "--part", "1/2").returncode == 0
    with_torch(out / "report-p1of2.json", "2.1.0")
    assert hlfeat("extract", clips, "-o", out, *SMALL, "--part", "2/2").returncode == 0
    report = read(out / "report.json")
    assert [v["torch"] for v in report["versions"]] == ["2.1.0", versions()["torch"]]
    assert len(about_versions(report)) == 1
