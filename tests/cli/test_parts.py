"""--part: what the environment of a job says of it, and that it divides nothing unasked."""

from __future__ import annotations

import json
import logging

import pytest

from hlfeat import FeatureStore
from hlfeat.cli.parts import JobEnvironment, choose_part, local_device, part_of_job
from hlfeat.errors import UsageError
from hlfeat.partition import WHOLE, Part, TaskNumbers
from hlfeat.storage.layout import Layout
from hlfeat.storage.named_place import place_of
from hlfeat.storage.run_parts import RunParts, read_run_parts
from tests import helpers
from tests.extraction.runs import QUIET, run

VARIABLES = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX",
             "SLURM_ARRAY_TASK_STEP", "RANK", "WORLD_SIZE", "LOCAL_RANK", "JOB_COMPLETION_INDEX")  # fmt: skip


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def array(task: int, *tasks: int) -> dict[str, str]:
    """The variables of a task of an array of these tasks, as SLURM sets them."""
    values = {"ID": task, "COUNT": len(tasks), "MIN": min(tasks), "MAX": max(tasks), "STEP": 1}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def torchrun(rank: int, size: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}


def part(env: dict[str, str], folder: RunParts | None = None, devices: int = 1) -> Part:
    return part_of_job(JobEnvironment.read(env), folder, devices)[0]


def four(*done: int, first: int | None = None) -> RunParts:
    """A folder in four parts."""
    return RunParts(4, frozenset(done), None if first is None else TaskNumbers(first))


# --- a new folder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (array(5, *range(5, 13)), Part(8, 1)),
        (array(3, 0, 1, 2, 3), Part(4, 4)),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4"}, Part(4, 1)),
        ({**array(14, 10, 14, 18), "SLURM_ARRAY_TASK_STEP": "4"}, Part(3, 2)),
        (array(1, 1), WHOLE),
        (array(0, 0), WHOLE),
        (torchrun(3, 4), Part(4, 4)),
        (torchrun(0, 1), WHOLE),
        ({**array(1, 0, 1), **torchrun(1, 3)}, Part(6, 5)),
    ],
)
def test_the_part_of_a_job(env, expected):
    assert part(env) == expected


@pytest.mark.parametrize(
    "env",
    [
        array(7, 1, 2, 3),
        array(1, 1, 3),  # two of several, submitted again: half of the clips would be too much
        array(3, 1, 3),
        array(2, 2),
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "x", "WORLD_SIZE": "4"},
        {"SLURM_JOB_ID": "9", "SLURM_NTASKS": "4", "SLURM_PROCID": "1"},  # no array, and maybe no srun
        {},
    ],
)
def test_what_does_not_say_which_part(env):
    with pytest.raises(UsageError, match="--part I/N says which part"):
        part(env)


# --- tasks that are submitted again --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "folder", "expected"),
    [
        (array(2, 2), four(1, 2, 3, 4), Part(4, 3)),
        (array(2, 2), four(), Part(4, 3)),
        (array(0, 0), four(), Part(4, 1)),
        (array(2, 2), four(1, 2, 4), Part(4, 3)),
        (array(2, 2), four(1, 3, 4), Part(4, 2)),  # from 1, then, as the other part is done
        (array(2, 2), four(1, 3, 4, first=0), Part(4, 3)),  # a report says more than that
        (array(2, 2), four(first=1), Part(4, 2)),
        (array(4, 4), four(first=1), Part(4, 4)),
        (array(1, 1, 3), four(first=0), Part(4, 2)),
        (array(3, 1, 3), four(first=0), Part(4, 4)),
        (array(30, 30), RunParts(4, frozenset(), TaskNumbers(10, 10)), Part(4, 3)),
        (array(2, 0, 1, 2, 3), four(1), Part(4, 3)),  # all of them
        (array(2, 1, 2, 3, 4), four(1), Part(4, 2)),
        ({**array(1, 1), **torchrun(1, 2)}, four(), Part(4, 4)),
        ({"JOB_COMPLETION_INDEX": "2"}, four(), Part(4, 3)),
    ],
)
def test_a_task_that_is_submitted_again(env, folder, expected):
    assert part(env, folder) == expected


@pytest.mark.parametrize(
    ("env", "folder", "message"),
    [
        (array(4, 4), four(), r"SLURM task 4 is none of 4 tasks from 0.*; --part 4/4 if the numbers began at 1"),
        (array(5, 5), four(), "SLURM task 5 is none of 4 tasks from 0.*--part I/N says"),
        (array(0, 0), four(first=1), "SLURM task 0 is none of the 4 tasks from 1 in steps of 1"),
        (array(1, *range(5)), four(), "an array of 5 tasks, but the folder is of 4"),
        ({**array(2, 2), **torchrun(1, 2)}, four(), "SLURM task 2 is none of 2.*; --part 4/4 if"),
        (torchrun(1, 3), four(), "expected a folder whose parts 3 processes can divide, got 4"),
        ({"JOB_COMPLETION_INDEX": "2"}, None, "JOB_COMPLETION_INDEX 2 does not say of how many: --part auto/N does"),
        (
            {"JOB_COMPLETION_INDEX": "4"},
            four(),
            "JOB_COMPLETION_INDEX 4: expected a number from 0 below that of parts, 4",
        ),
    ],
)
def test_a_task_that_could_be_any(env, folder, message):
    with pytest.raises(UsageError, match=message.replace("an array", "a SLURM array")):
        part(env, folder)


@pytest.mark.parametrize(
    ("env", "of", "folder", "expected"),
    [
        ({"JOB_COMPLETION_INDEX": "2"}, 8, None, Part(8, 3)),
        (array(3, 0, 1, 2, 3), 4, None, Part(4, 4)),
        (array(2, 2), 4, None, Part(4, 3)),  # submitted again, before any part has begun
        (torchrun(1, 8), 8, None, Part(8, 2)),
        ({"JOB_COMPLETION_INDEX": "2"}, 4, four(1), Part(4, 3)),
    ],
)
def test_auto_of_a_number(env, of, folder, expected):
    assert part_of_job(JobEnvironment.read(env), folder, of=of)[0] == expected


@pytest.mark.parametrize(
    ("env", "of", "folder"),
    [
        ({"JOB_COMPLETION_INDEX": "2"}, 8, four(1)),
        (array(3, 0, 1, 2, 3), 3, None),
        (torchrun(1, 2), 4, None),
    ],
)
def test_auto_of_another_number_than_the_jobs(env, of, folder):
    with pytest.raises(
        UsageError, match=f"--part auto/{of}: expected|a SLURM array of 4 tasks, but the folder is of 3"
    ):
        part_of_job(JobEnvironment.read(env), folder, of=of)


def test_devices_divide_the_part_of_a_task():
    assert part(array(1, 1), RunParts(8, frozenset(), TaskNumbers(0)), devices=2) == Part(4, 2)
    pod = JobEnvironment.read({"JOB_COMPLETION_INDEX": "1"})
    for folder in (None, RunParts(8, frozenset())):
        assert part_of_job(pod, folder, devices=2, of=4)[0] == Part(4, 2)


def test_a_guess_is_told(tmp_path):
    _, why = part_of_job(JobEnvironment.read(array(2, 2)), four())
    assert why == "SLURM task 2 of those from 0; --part 2/4 if the numbers began at 1"


def test_what_a_folder_says_of_its_parts(tmp_path, clips):
    out = tmp_path / "out"
    assert read_run_parts(out) is None
    for index, tasks in ((1, None), (2, TaskNumbers(1))):
        one = Part(3, index, tasks)
        run(clips, out, options=type(QUIET)(quiet=True, part=one))
        assert read_run_parts(out) == RunParts(3, frozenset(range(1, index + 1)), tasks)
    Layout(out, Part(3, 2)).report.write_text("{")
    assert read_run_parts(out) == RunParts(3, frozenset({1}), None)
    for text in ('{"array": 3}', '{"array": {"first": "1", "step": 1}}', '{"array": {"first": 1, "step": 0}}', "[]"):
        Layout(out, Part(3, 2)).report.write_text(text)
        read = read_run_parts(out)
        assert read is not None
        assert read.tasks is None


# --- the command ---------------------------------------------------------------------------------------------------

SMALL = ["-c", "log-mel", "--set", "frontend.n_filters=8"]


def test_without_the_option_a_run_is_whole(tmp_path, clips, monkeypatch, invoke):
    """A task of an array whose tasks have lists of their own, a process in a pod, and what is no job."""
    odd = {"RANK": "x", "WORLD_SIZE": ""}
    for env, seen in (
        (array(2, 0, 1, 2, 3), "task 2 of a SLURM array of 4 tasks"),
        (torchrun(1, 2), "process 1 of 2 (RANK and WORLD_SIZE)"),
        (array(2, 2), None),
        (odd, None),
    ):
        with monkeypatch.context() as patch:
            for key, value in env.items():
                patch.setenv(key, value)
            done = invoke("extract", clips, "-o", tmp_path / "out", "--overwrite", *SMALL)
        assert done.returncode == 0, done.stderr
        assert len(FeatureStore(tmp_path / "out")) == 12
        if seen is None:
            assert "--part" not in done.stderr
        else:
            line = f"hlfeat: this is {seen}; it does all clips, and with --part auto a part of them\n"
            assert done.stderr.count(line) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_an_array_and_one_of_its_tasks_again(tmp_path, clips, monkeypatch, invoke, first):
    out, tasks = tmp_path / "out", range(first, first + 4)

    def task(number, *numbers, more=()):
        with monkeypatch.context() as patch:
            for key, value in array(number, *numbers).items():
                patch.setenv(key, value)
            return invoke("extract", clips, "-o", out, "--part", "auto", *SMALL, *more)

    helpers.broken_clips(clips / "e-broken")
    for number in tasks:
        done = task(number, *tasks)
        assert f"part {number - first + 1}/4 (SLURM array)" in done.stderr
    assert json.loads((out / "report.json").read_text())["parts"] == 4
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = task(2, 2, more=["--retry-failed"])
    expected = 3 - first
    assert f"part {expected}/4 (SLURM task 2 of those from {first})" in again.stderr
    changed = {path.name for path in out.iterdir() if path.stat().st_mtime_ns != before[path.name]}
    assert f"report-p{expected}of4.json" in changed
    assert {name for name in changed if "of4" in name} <= {
        f"report-p{expected}of4.json",
        f"failures-p{expected}of4.jsonl",
    }
    whole = invoke("extract", clips, "-o", out, *SMALL)
    assert whole.returncode == 2
    assert "a run in 4 parts, not in one part; choose another folder; --part I/N or --part auto goes" in whole.stderr


def test_auto_where_there_is_no_job(tmp_path, clips, invoke):
    done = invoke("extract", clips, "-o", tmp_path / "out", "--part", "auto", *SMALL)
    assert done.returncode == 2
    assert "--part auto: expected the variables of a SLURM array, torchrun or Kubernetes" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_environment_chooses_a_device_with_auto_only(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for key, value in torchrun(1, 2).items():
        monkeypatch.setenv(key, value)
    with caplog.at_level(logging.INFO, "hlfeat"):
        assert choose_part(None, place_of(tmp_path), 1) == (WHOLE, "")
        assert choose_part("2/3", place_of(tmp_path), 1) == (Part(3, 2), "")
        assert choose_part("auto", place_of(tmp_path), 1) == (Part(2, 2), "torchrun")
    assert len(caplog.messages) == 1
    assert local_device("auto", torchrun(1, 2)) == "cuda:1"
    assert local_device("cpu", torchrun(1, 2)) == "cpu"
