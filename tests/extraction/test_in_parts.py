"""All parts of a run one after the other: the files of parts done by hand, and one run to whoever looks at it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import hlfeat
from hlfeat.errors import InterruptedRunError, TooManyFailuresError, UsageError
from hlfeat.extraction.options import Options
from hlfeat.extraction.progress import Progress
from hlfeat.partition import Part
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import DirectoryLock
from tests import helpers
from tests.extraction.runs import contents, parts_by_hand, run

SHARD = "output.shard_size=2"
SMALL = ["-c", "log-mel", "--set", "frontend.n_filters=8", "--shard-size", "2"]


def in_parts(folder: Path, out: Path, parts: int | str, **more):
    hooks = {name: more.pop(name) for name in ("stopped", "finished_shard", "progress") if name in more}
    return run(folder, out, SHARD, options=Options(quiet=True, parts=parts, **more), **hooks)


@pytest.mark.parametrize(("parts", "device"), [(1, "cpu"), (3, "cpu"), (2, "cpu,cpu"), (20, "cpu")])
def test_the_files_are_those_of_parts_by_hand(clips, tmp_path, parts, device):
    helpers.broken_clips(clips / "e-broken")
    told, counters = [], []

    def progress(*about):
        counters.append(Progress(*about))
        return counters[-1]

    out, start = tmp_path / "out", time.monotonic()
    report = in_parts(clips, out, parts, device=device, finished_shard=told.append, progress=progress)
    spent = time.monotonic() - start
    assert contents(out) == parts_by_hand(clips, tmp_path / "want", parts * len(device.split(",")))
    assert sorted(told) == sorted(out.glob("*.npy"))
    n = len(hlfeat.FeatureStore(out))
    total = json.loads((out / "report.json").read_text())
    assert (report.clips, report.complete, len(report.failures)) == (n, True, total["failures"])
    assert [(c.total, c.clips) for c in counters] == [(n + total["failures"],) * 2]
    assert 0 < report.seconds["total"] <= spent
    again = in_parts(clips, out, "auto", device=device, progress=progress)
    assert (again.clips, again.clips_before, counters[-1].clips) == (0, n, counters[-1].total)


def test_a_folder_that_has_parts_keeps_their_number(clips, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"parts: .* is not in parts yet"):
        in_parts(clips, out, "auto")
    assert not out.exists()
    run(clips, out, SHARD, options=Options(quiet=True, part=Part(4, 3)))
    with pytest.raises(UsageError, match="a run in 4 parts, not in 3 parts"):
        in_parts(clips, out, 3)
    with pytest.raises(UsageError, match="a run in 4 parts, not in 8 parts"):
        in_parts(clips, out, 4, device="cpu,cpu")
    with pytest.raises(UsageError, match="in 4 parts, which are not those of 3 devices each"):
        in_parts(clips, out, "auto", device="cpu,cpu,cpu")
    in_parts(clips, out, "auto")
    assert contents(out) == parts_by_hand(clips, tmp_path / "want", 4)
    with pytest.raises(UsageError, match=r"parts: .* is begun anew: expected a number of parts, got auto"):
        in_parts(clips, out, "auto", overwrite=True)
    assert contents(out) == parts_by_hand(clips, tmp_path / "want", 4)
    in_parts(clips, out, 2, overwrite=True)
    assert contents(out) == parts_by_hand(clips, tmp_path / "two", 2)
    with pytest.raises(UsageError, match="another configuration"):
        run(clips, out, "seed=5", options=Options(quiet=True, parts=2))


def test_parts_that_are_stopped_go_on(clips, tmp_path):
    out, want = tmp_path / "out", parts_by_hand(clips, tmp_path / "want", 3)
    told: list[Path] = []

    def stopped_at_a_shard() -> dict:
        told.clear()
        with pytest.raises(InterruptedRunError):
            in_parts(clips, out, 3, workers=1, finished_shard=told.append, stopped=lambda: len(told) == 1)
        return json.loads((out / "report.json").read_text())

    for n in range(1, 6):  # at each shard but the last one
        report = stopped_at_a_shard()
        assert (report["complete"], report["interrupted"], report["clips"]) == (False, "asked to stop", 2 * n)
    in_parts(clips, out, 3)
    assert contents(out) == want


def test_an_error_ends_the_run_and_says_what_was_done(clips, tmp_path):
    helpers.broken_clips(clips / "e-broken")
    with pytest.raises(TooManyFailuresError) as stopped:
        in_parts(clips, tmp_path / "out", 4, max_failures=0)
    assert stopped.value.report is not None
    assert 0 < stopped.value.report["clips"] == len(hlfeat.FeatureStore(tmp_path / "out")) <= 12


def test_another_run_has_a_part(clips, tmp_path):
    lock = DirectoryLock(Layout(tmp_path / "out", Part(3, 2)))
    with pytest.raises(hlfeat.OutputError, match="another run is writing part 2/3 here"):
        in_parts(clips, tmp_path / "out", 3)
    lock.release()


@pytest.mark.parametrize("wrong", [{"parts": 0}, {"parts": "2"}, {"parts": True}, {"on": "slurm"}])
def test_options_that_cannot_be(wrong):
    with pytest.raises(UsageError, match=f"^{next(iter(wrong))}: expected "):
        Options(**wrong)


def test_a_part_is_not_all_parts():
    for all_parts in ({"parts": 2}, {"on": "ray"}):
        with pytest.raises(UsageError, match=r"^part: expected none"):
            Options(part=Part(2, 1), **all_parts)


def test_the_command(clips, tmp_path, invoke):
    helpers.broken_clips(clips / "e-broken")
    out = tmp_path / "out"
    plan = invoke("extract", clips, "-o", out, *SMALL, "--parts", 3, "-n")
    assert (plan.returncode, out.exists()) == (0, False)
    done = invoke("extract", clips, "-o", out, *SMALL, "--parts", 3)
    assert done.returncode == 3
    assert sorted(done.stdout.split("\n")[:-1]) == sorted(map(str, out.glob("*.npy")))
    assert "hlfeat: part 3/3: " in done.stderr
    assert done.stderr.count("times real time") == 1
    for wrong in (["--parts", 2], ["--parts", 2, "-n"]):
        refused = invoke("extract", clips, "-o", out, *SMALL, *wrong)
        assert refused.returncode == 2
        assert "holds a run in 3 parts, not in 2 parts" in refused.stderr
        assert "--parts auto with all" in refused.stderr
    for wrong in (["--part", "1/3", "--parts", 3], ["--part", "auto", "--on", "ray"]):
        refused = invoke("extract", clips, "-o", out, *SMALL, *wrong)
        assert refused.returncode == 2
        assert "--part: expected without --parts and --on" in refused.stderr
    for wrong in ("0", "x", "-1", "1.5"):
        assert invoke("extract", clips, "-o", out, *SMALL, "--parts", wrong).returncode == 2
    again = invoke("extract", clips, "-o", out, *SMALL, "--parts", "auto")
    assert again.returncode == 3
    assert again.stderr.count("clips are done already") == 3


def test_pitch_tracks_in_parts(clips, tmp_path, invoke):
    for i in (1, 2):
        assert invoke("pitch", clips, "-o", tmp_path / "want", "--part", f"{i}/2").returncode == 0
    done = invoke("pitch", clips, "-o", tmp_path / "out", "--parts", 2)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "want")
    assert sorted(done.stdout.split("\n")[:3]) != []
