"""The command that runs all experiments: its file of results, what it does again, what it refuses."""

from __future__ import annotations

import json

import pytest

from hlfeat.errors import OutputError
from scripts.evidence import __main__ as command
from scripts.evidence import digits, stacks
from scripts.evidence.intervals import Interval
from scripts.evidence.records import Records, divide
from scripts.evidence.tables import difference, markdown, mean_of, percent, points
from scripts.evidence.workers import run_jobs


def square(job, more: int):
    return {"squared": job["n"] ** 2 + more}


def test_jobs_keep_their_order_in_processes_and_without():
    jobs = [{"n": n} for n in range(5)]
    for processes in (1, 2):
        written = []
        records = run_jobs(square, jobs, 1, write=written.append, processes=processes)
        assert [r["squared"] for r in records] == [1, 2, 5, 10, 17]
        assert sorted(written, key=lambda r: r["n"]) == records
        assert all(r["seconds"] >= 0 and r["core_seconds"] >= 0 for r in records)


def test_records_go_on_after_a_line_that_was_cut(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    records = Records(path)
    records.add({"experiment": "a", "n": 1})
    with path.open("a") as file:
        file.write('{"experiment": "a", "n"')
    again = Records(path)
    again.add({"experiment": "b", "n": 2})
    assert again.of("a") == [{"experiment": "a", "n": 1}]
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("text", ["no JSON\n", "[1]\n", '{"n": 1}\n'])
def test_another_file_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "a"
    path.write_text(text)
    with pytest.raises(OutputError, match="expected results as lines of JSON"):
        Records(path)
    assert path.read_text() == text


def test_jobs_that_are_done_and_missing():
    jobs = [{"stack": "plain", "seed": s, "recipe": {"steps": 3}} for s in range(3)]
    right, wrong, other = {**jobs[1], "accuracy": 0.5}, {**jobs[0], "stack": "wrong"}, {**jobs[2], "recipe": {}}
    assert divide(jobs, [wrong, right, {"experiment": "environment"}, other]) == ([right], [jobs[0], jobs[2]])


def test_cells_of_tables():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    runs = [{"accuracy": a, "seed": i, "instruments": {"x": a, "y": a}} for i, a in enumerate((0.4, 0.6))]
    assert mean_of(runs[:1]) == "40.0"
    assert mean_of([]) == ""
    assert percent(Interval(0.5, 0.4, 0.6)) == "50.0 ± 10.0"
    assert points(Interval(0.1, -0.01, 0.2)) == "+10.0 (-1.0 to +20.0)"
    assert points(Interval(-0.1, -0.2, -0.01)) == "**-10.0** (-20.0 to -1.0)"
    assert difference(runs, runs[1:]) == "+0.0 (+0.0 to +0.0)"  # of the seed that both have
    assert difference(runs, []) == ""


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["evidence", *arguments])
    return command.main()


def test_the_command_writes_goes_on_and_prints(tmp_path, capsys, monkeypatch):
    def fake(folder, finished=(), write=None, seeds=digits.SEEDS):
        done, jobs = divide(digits.final_jobs(["a", "b", "c"], dict.fromkeys("abc", 2), seeds), finished)
        for job in jobs:
            write({**job, "accuracy": 0.5, "clips": {job["tested"]: 1}})
        return done + [{**job, "accuracy": 0.5, "clips": {job["tested"]: 1}} for job in jobs]

    monkeypatch.setattr(digits, "run", fake)
    path = tmp_path / "r.jsonl"
    for seeds in ("1", "2"):
        assert run(monkeypatch, "--only", "digits", "--digits", "x", "--seeds", seeds, "-o", str(path)) == 0
        assert f"| harmonic | 50.0{'' if seeds == '1' else ' ± 0.0'} | 50.0 |" in capsys.readouterr().out
    records = Records(path)
    assert len(records.of(digits.EXPERIMENT)) == 18  # the first 9 were not computed again
    assert {"commit", "date", "versions"} <= set(records.of("environment")[0])
    assert [r["of"] for r in records.of("elapsed")] == ["digits", "digits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a soundfont"),
        (["--only", "digits", "a.sf2"], "expected a soundfont, for digits --digits FOLDER"),
        (["--only", "stacks", "--seeds", "0", "a.sf2"], "--seeds: expected 1 or more, got 0"),
        (["--only", "stacks", "none.sf2"], "none.sf2: No such file or directory"),
        (["--digits", "."], "expected DIGIT_SPEAKER_NUMBER.wav of three speakers or more"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    real = stacks.run_jobs
    monkeypatch.setattr(stacks, "run_jobs", lambda *a, **k: real(*a, **k, processes=1))
    assert run(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
