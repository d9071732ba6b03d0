"""How far a run is, and its log, for people and for machines; long clips move too."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hlfeat.cli import job
from hlfeat.cli.process import Display, JsonFormatter
from hlfeat.errors import InterruptedRunError
from hlfeat.extraction import forwarding, one_device
from hlfeat.extraction import progress as module
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.run_log import ForwardedLog, ForwardingHandler
from tests import helpers
from tests.conftest import command as command_path
from tests.extraction.runs import contents, run

SMALL = ["-c", "log-mel", "--set", "frontend.n_filters=8"]
LINE = re.compile(
    r"hlfeat: (\d+) of (\d+) clips, (\d+\.\d\d) h of audio, (\d+) times real time(, \d+\.\d+ (s|min|h) left)?"
)


@pytest.fixture
def often(monkeypatch) -> None:
    """Lines come as often as a test can see them."""
    monkeypatch.setattr(module, "LINE_EVERY", 0.02)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A folder with one recording of 20 minutes."""
    folder = tmp_path / "long"
    folder.mkdir()
    noise = np.random.default_rng(0).normal(size=16000 * 60).astype(np.float32) * 0.1
    soundfile.write(folder / "a.flac", np.tile(noise, 20), 16000)
    return folder


def objects(text: str) -> list[dict[str, Any]]:
    """Every line as a JSON object."""
    return [json.loads(line) for line in text.splitlines()]


def test_lines_without_a_terminal_move_within_a_long_clip(invoke, long, tmp_path, often):
    done = invoke("extract", long, "-o", tmp_path / "out", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = [m for line in done.stderr.splitlines() if (m := LINE.fullmatch(line))]
    assert len(lines) > 2
    assert {(m[1], m[2]) for m in lines} <= {("0", "1"), ("1", "1")}
    hours = [float(m[3]) for m in lines]
    assert hours == sorted(hours)
    assert any(0 < h < 0.33 for h in hours)
    assert any(m[5] for m in lines if m[1] == "0")  # the time left is known before the first clip is done
    for quiet in (["-q"], ["--progress", "none"], ["--progress", "lines", "-q"]):
        silent = invoke("extract", long, "-o", tmp_path / "out", *SMALL, "--overwrite", *quiet)
        assert not any(LINE.fullmatch(line) for line in silent.stderr.splitlines())


def test_progress_as_json(invoke, long, tmp_path, often):
    out = tmp_path / "out"
    done = invoke("extract", long, "-o", out, *SMALL, "--progress", "json")
    assert done.stdout == f"{out}/shard-00000.npy\n"
    lines = done.stderr.splitlines()
    events = objects("\n".join(line for line in lines if line.startswith("{")))
    *moving, last = events
    assert len(moving) > 2
    for event in moving:
        assert event["event"] == "progress"
        assert event["clips_total"] == 1
        assert set(event) == {"event", "time", "clips", "clips_total", "hours", "real_time_factor", "seconds_left"}
    middle = [event for event in moving if 0 < event["hours"] < 0.33]
    assert middle
    assert all(event["seconds_left"] > 0 and event["real_time_factor"] > 0 for event in middle)
    assert (last["event"], last["complete"], last["clips"]) == ("summary", True, 1)
    assert last["hours"] == pytest.approx(1 / 3)
    assert [line for line in lines if not line.startswith("{")][-1].startswith("hlfeat: 1 clip, 20.0 min of audio")


def test_the_log_as_json(invoke, clips, tmp_path, often):
    (clips / "broken.wav").write_bytes(b"")
    out = tmp_path / "out"
    run = ["extract", clips, "-o", out, *SMALL, "--shard-size", "4"]
    done = invoke(*run, "--log-format", "json", "-v")
    assert done.returncode == 3
    assert done.stdout.splitlines() == [f"{out}/shard-0000{i}.npy" for i in range(3)]
    lines = objects(done.stderr)
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line.get("event") == "progress" or {"level", "message"} <= set(line)
    (failure,) = [line for line in lines if line.get("event") == "failure"]
    assert failure["level"] == "warning"
    assert (failure["id"], failure["path"], failure["code"]) == ("broken.wav", str(clips / "broken.wav"), "empty")
    (summary,) = [line for line in lines if line.get("event") == "summary"]
    assert (summary["level"], summary["clips"], summary["failures_by_code"]) == ("info", 12, {"empty": 1})
    assert summary["message"].startswith("12 clips, ")
    wrong = invoke(*run, "--log-format", "json", "--device", "cpu:x")
    (error,) = objects(wrong.stderr)
    assert (wrong.returncode, error["level"]) == (2, "error")
    assert error["message"].startswith("--device cpu:x: ")
    assert "traceback" not in error
    assert (
        "Traceback" in objects(invoke(*run, "--log-format", "json", "--device", "cpu:x", "-v").stderr)[-1]["traceback"]
    )
    bar = invoke(*run, "--log-format", "json", "--progress", "bar")
    assert (bar.returncode, "--progress bar: expected json, lines or none" in bar.stderr) == (2, True)


def test_several_devices_log_in_json_too(hlfeat, clips, tmp_path):
    (clips / "d0/broken.wav").write_bytes(b"")
    (clips / "d1/broken.wav").write_bytes(b"")
    done = hlfeat("extract", clips, "-o", tmp_path / "out", *SMALL, "--device", "cpu,cpu", "--log-format", "json")
    assert done.returncode == 3
    lines = objects(done.stderr)
    assert sorted(line["id"] for line in lines if line.get("event") == "failure") == ["d0/broken.wav", "d1/broken.wav"]
    assert [line["clips"] for line in lines if line.get("event") == "summary"] == [12]


def test_an_interruption_is_an_event(tmp_path, clips, invoke, monkeypatch):
    """A signal that comes while the first shard is published."""
    paths: list[Path] = []

    def published(path: Path) -> None:
        if not paths:
            os.kill(os.getpid(), signal.SIGTERM)
        paths.append(path)

    monkeypatch.setattr(job, "print_path", published)
    done = invoke("extract", clips, "-o", tmp_path / "out", *SMALL, "--shard-size", "4", "--log-format", "json")
    assert done.returncode == 130
    (summary,) = [line for line in objects(done.stderr) if line.get("event") == "summary"]
    assert (summary["complete"], summary["interrupted"], summary["clips"]) == (False, "asked to stop", 4)


@pytest.mark.parametrize("command", ["pitch", "stats"])
def test_other_runs_have_the_same_options(invoke, tmp_path, often, command):
    folder = helpers.good_clips(tmp_path / "clips", 6)
    out = tmp_path / ("out" if command == "pitch" else "stats.json")
    done = invoke(command, folder, "-o", out, "--log-format", "json", "--progress", "lines")
    assert done.returncode == 0, done.stderr
    assert all("message" in line for line in objects(done.stderr))


# --- what is counted -----------------------------------------------------------------------------------------------


def on_a_device(extractor, postprocessor, loader, device, dtype, batch_samples, limits):
    """The engine of a GPU, on a CPU."""
    return BatchEngine(extractor, postprocessor, loader, device, dtype, 64000, limits)


@pytest.mark.parametrize("engine", [None, on_a_device])
@pytest.mark.parametrize("overrides", [[], ["audio.channels=each"], ["stack=[{layer: norm, kind: instance}]"]])
def test_what_is_counted_in_the_end_is_the_clips(tmp_path, overrides, engine, monkeypatch):
    """A long clip of two channels at another rate, one that breaks in the middle, and a short one."""
    folder = tmp_path / "clips"
    folder.mkdir()
    x = np.random.default_rng(0).normal(size=(44100 * 80, 2)).astype(np.float32) * 0.1
    soundfile.write(folder / "a.wav", x, 44100)
    x[-1000] = np.nan
    soundfile.write(folder / "b.wav", x, 44100, subtype="FLOAT")
    soundfile.write(folder / "c.wav", x[:44100], 44100)
    seen: list[tuple[float, float]] = []
    if engine is not None:
        monkeypatch.setattr(one_device, "make_engine", engine)

    class Watched(Progress):
        def add(self, clips: int, seconds: float, part: float = 0.0) -> None:
            super().add(clips, seconds, part)
            seen.append((self.seconds, self._part))

    counters = []

    def progress(*about):
        counters.append(Watched(*about))
        return counters[-1]

    report = run(folder, tmp_path / "out", *overrides, config="log-mel", progress=progress)
    (counter,) = counters
    assert [failure["id"] for failure in report.failures] == ["b.wav"]
    assert (counter.clips, counter.seconds) == (3, pytest.approx(report.audio_seconds))
    assert counter._part == pytest.approx(0)
    assert len({seconds for seconds, part in seen if 0 < part < 1}) > 8
    assert all(0 <= part <= 1 + 1e-9 for _, part in seen)
    assert set(contents(tmp_path / "out")) >= {"shard-00000.npy", "failures.jsonl"}


# --- how a run ends ------------------------------------------------------------------------------------------------


def last_event(text: str) -> dict[str, Any]:
    """The one summary among the lines of standard error."""
    (event,) = [
        e for line in text.splitlines() if line.startswith("{") and (e := json.loads(line)).get("event") == "summary"
    ]
    return event


@pytest.mark.parametrize("mode", [["--progress", "json"], ["--log-format", "json"]])
def test_a_run_that_fails_ends_with_an_event(invoke, clips, tmp_path, mode):
    (clips / "d0/broken.wav").write_bytes(b"")
    out = tmp_path / "out"
    for options, why, status in ((["--on-error", "stop"], "on_error: stopped", 1), (["--set", "seed=3"], str(out), 2)):
        failed = invoke("extract", clips, "-o", out, *SMALL, "--shard-size", "2", *options, *mode)
        assert failed.returncode == status
        lines = [line for line in failed.stderr.splitlines() if mode[0] == "--log-format" or line.startswith("{")]
        (event,) = [e for line in lines if (e := json.loads(line)).get("event") == "summary"]
        assert (event["complete"], event["interrupted"].startswith(why), event["output"]) == (False, True, str(out))
        assert ("clips_this_run" in event) == (status == 1)
        assert event.get("level", "error") == "error"


def test_quiet_is_quiet_in_json_too(invoke, clips, tmp_path):
    done = invoke("extract", clips, "-o", tmp_path / "out", *SMALL, "--progress", "json", "-q")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("mode", [["--progress", "json"], ["--log-format", "json"]])
def test_statistics_of_clips_end_with_an_event(invoke, clips, tmp_path, mode):
    out = tmp_path / "stats.json"
    done = invoke("stats", clips, "-o", out, *SMALL, *mode)
    event = last_event(done.stderr)
    assert (event["complete"], event["clips"], event["output"]) == (True, 12, str(out))
    (clips / "d0/broken.wav").write_bytes(b"")
    failed = invoke("stats", clips, "-o", out, *SMALL, *mode, "--max-failures", "0")
    event = last_event(failed.stderr)
    assert (failed.returncode, event["complete"]) == (1, False)
    assert event["interrupted"] == "max_failures: more than 0 clips failed"


def test_several_devices_that_are_stopped_report_together(tmp_path):
    """The event at the end, and report.json, have the figures of all of them; the next run's are its own."""
    folder, out = helpers.good_clips(tmp_path / "clips", 60, longest=3.0), tmp_path / "out"
    args = [command_path(), "extract", str(folder), "-o", str(out), "--shard-size", "1", "--device", "cpu,cpu"]
    args += ["-c", "leaf", "--progress", "json"]
    run = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    run.stdout.readline()
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    event, done = last_event(err), len(list(out.glob("shard-*.jsonl")))
    assert 1 <= done < 60
    report = json.loads((out / "report.json").read_text())
    for figures in (event, report):
        assert (figures["complete"], figures["interrupted"]) == (False, "asked to stop")
        assert (figures["clips"], figures["clips_this_run"], figures["parts"]) == (done, done, 2)
    assert not list(out.glob("*.lock"))


def test_an_event_is_of_this_run_only(invoke, clips, tmp_path, monkeypatch):
    """A report that an earlier run has left is not shown for a run that was stopped before it began."""
    out = tmp_path / "out"
    assert invoke("extract", clips, "-o", out, *SMALL).returncode == 0
    path = out / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "complete": False, "interrupted": "long ago"}))

    def stopped(*_: object, **__: object) -> None:
        raise InterruptedRunError

    monkeypatch.setattr(one_device, "scan_output", stopped)
    done = invoke("extract", clips, "-o", out, *SMALL, "--progress", "json")
    assert done.returncode == 130
    event = last_event(done.stderr)
    assert (event["interrupted"], "clips" in event) == ("asked to stop", False)


# --- the log of several processes ----------------------------------------------------------------------------------


def test_forks_of_a_devices_process_print_in_the_format_of_the_log(capfd):
    record = logging.LogRecord("hlfeat", logging.WARNING, "", 0, "%s", ("odd",), None)
    for display, line in ((None, "hlfeat: odd"), (Display(log_format="json"), '"message": "odd"')):
        handler = ForwardingHandler(lambda *_: None, display and pickle.loads(pickle.dumps(JsonFormatter())))
        child = os.fork()
        if not child:
            handler.emit(record)
            os._exit(0)
        os.waitpid(child, 0)
        assert line in capfd.readouterr().err


def test_a_devices_process_gets_the_format_of_the_log(monkeypatch):
    log = logging.getLogger("hlfeat")
    handler = logging.StreamHandler()
    monkeypatch.setattr(log, "handlers", [handler])
    handler.setFormatter(JsonFormatter())
    assert isinstance(forwarding.sendable_formatter(), JsonFormatter)
    handler.setFormatter(type("Local", (logging.Formatter,), {})())  # cannot be sent
    assert forwarding.sendable_formatter() is None


def test_lines_that_several_may_say_are_not_kept():
    """Of the others nothing is kept, however many there are."""
    log = logging.getLogger("hlfeat.test")
    shown = ForwardedLog(log)
    for i in range(100):
        shown.show("cpu", logging.DEBUG, f"clip {i}", {}, False)
        shown.show("cpu", logging.DEBUG, "all", {}, True)
    assert shown._said == {"all"}
