"""Parts done by workers elsewhere, without a cluster: workers in this process, and what each says and checks."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from hlfeat.config.loading import load_config
from hlfeat.errors import HlfeatError, InterruptedRunError, OutputError, TooManyFailuresError, UsageError
from hlfeat.extraction import on_workers, remote_part
from hlfeat.extraction.mailbox import Mailbox, Message, Outbox
from hlfeat.extraction.on_workers import Result, extract_on_workers
from hlfeat.extraction.one_part import Work
from hlfeat.extraction.options import DEFAULT_LIMITS, Options
from hlfeat.extraction.part_display import PartDisplay
from hlfeat.extraction.product import FEATURES
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.ray_workers import _tasks_on, gpus_of
from hlfeat.extraction.remote_part import Assignment, TryAgainError, do_part
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Hooks
from hlfeat.inputs.collect import collect_inputs
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.driver_token import DriverToken, remove_abandoned_token, sees_token
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import AnotherRunError, DirectoryLock
from tests import helpers
from tests.extraction.runs import CHEAP, contents, run

THREE = Options(on="ray", parts=3, workers=1, quiet=True, device="cpu")


class Here:
    """Workers in this process; each part is done when somebody asks what has ended."""

    capacity = 2

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self.calls: list[tuple[str, Collection[int]]] = []
        self.waiting: list[Part] = []

    def describe(self) -> str:
        return "here"

    def start(self, assignment: Assignment, parts: Sequence[Part]) -> None:
        self.assignment, self.waiting = assignment, list(parts)

    def do(self, part: Part) -> Result:
        return do_part(self.assignment, part, self.mailbox.post, "here")

    def finished(self, timeout: float) -> list[tuple[Part, Result]]:
        part = self.waiting.pop(0)
        return [(part, self.do(part))]

    def messages(self) -> list[Message]:
        return self.mailbox.take()

    def stop(self, begun: Collection[int]) -> None:
        self.calls.append(("stop", begun))
        self.mailbox.stop()

    def kill(self) -> None:
        self.calls.append(("kill", ()))

    def close(self) -> None:
        self.calls.append(("close", ()))


def work(clips: Path, out: Path) -> Work:
    inputs = collect_inputs([str(clips)], io.BytesIO())
    return Work(load_config(overrides=[*CHEAP, "output.shard_size=2"]), inputs, out, DEFAULT_LIMITS, FEATURES)


def by_hand(clips: Path, out: Path, parts: int) -> dict[str, bytes]:
    for part in WHOLE.split(parts):
        run(clips, out, "output.shard_size=2", options=Options(quiet=True, part=part))
    return contents(out)


# --- the run -------------------------------------------------------------------------------------------------------


def test_parts_by_workers_are_those_by_hand(clips, tmp_path, caplog):
    helpers.broken_clips(clips / "e-broken")
    told, counters = [], []

    def progress(*about):
        counters.append(Progress(*about))
        return counters[-1]

    out, here = tmp_path / "out", Here()
    with caplog.at_level(logging.INFO, "hlfeat"):
        report = extract_on_workers(
            work(clips, out), THREE, Hooks(lambda: False, told.append, progress), lambda _: here
        )
    assert contents(out) == by_hand(clips, tmp_path / "want", 3)
    assert sorted(told) == sorted(out.glob("*.npy"))
    assert (report.clips, report.complete) == (12, True)
    assert [(c.total, c.clips) for c in counters] == [(12 + len(report.failures),) * 2]
    assert "3 parts, here" in caplog.messages
    assert any(m.startswith("part 3/3 on here: ") and "not-audio" in m for m in caplog.messages)
    assert here.calls == [("close", ())]


@pytest.mark.parametrize(("capacity", "there", "expected"), [(4, 0, 4), (0, 0, 1), (4, 3, 3), (4, 1, 1)])
def test_how_many_parts(clips, tmp_path, caplog, capacity, there, expected):
    out, here = tmp_path / "out", Here()
    here.capacity = capacity
    for part in WHOLE.split(there)[:1] if there else ():
        run(clips, out, "output.shard_size=2", options=Options(quiet=True, part=part))
    extract_on_workers(work(clips, out), replace(THREE, parts=None), Hooks(), lambda _: here)
    assert contents(out) == by_hand(clips, tmp_path / "want", expected)
    assert any("wait until one joins" in m for m in caplog.messages) == (capacity == 0)


def test_a_part_that_fails_lets_the_others_finish(clips, tmp_path, caplog):
    class OneFails(Here):
        def do(self, part: Part) -> Result:
            return OutputError("its disk is broken") if part.index == 2 else super().do(part)

    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"^1 of 3 parts failed; what is finished is kept: run the same again$"):
        extract_on_workers(work(clips, out), THREE, Hooks(), lambda _: OneFails())
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == ["part 2/3: its disk is broken"]
    extract_on_workers(work(clips, out), THREE, Hooks(), lambda _: Here())
    assert contents(out) == by_hand(clips, tmp_path / "want", 3)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_run_that_is_stopped(clips, tmp_path, at_once, monkeypatch):
    out, told = tmp_path / "out", []

    class Slow(Here):
        def finished(self, timeout: float) -> list[tuple[Part, Result]]:
            if len(told) and not at_once:  # it does not listen
                return []
            return super().finished(timeout)

    if not at_once:
        monkeypatch.setattr(on_workers, "GRACE", 0.1)
    here = Slow()
    with pytest.raises(InterruptedRunError) as stopped:
        extract_on_workers(work(clips, out), THREE, Hooks(lambda: bool(told), told.append), lambda _: here)
    assert here.calls == [("stop", {1}), *([] if at_once else [("kill", ())]), ("close", ())]
    assert stopped.value.report is not None
    assert stopped.value.report["clips"] == 4
    assert not Layout(out).driver.exists()
    extract_on_workers(work(clips, out), THREE, Hooks(), lambda _: Here())
    assert contents(out) == by_hand(clips, tmp_path / "want", 3)


# --- what is shown -------------------------------------------------------------------------------------------------


def test_a_second_attempt_takes_back_what_the_first_has_counted(clips, tmp_path, caplog):
    out, told = tmp_path / "out", []
    out.mkdir()
    progress = Progress(12, 0, True)
    display = PartDisplay(Hooks(finished_shard=told.append), progress, 2, 1, out)
    run(clips, out, "output.shard_size=2", options=Options(quiet=True, part=Part(2, 2)))
    shards = sorted(out.glob("*.npy"))
    caplog.clear()

    def said(attempt: str, kind: str, value: object) -> None:
        display.take([Message(2, attempt, "moon", kind, value)])

    for attempt, resumed in (("a", 1), ("b", 2)):
        said(attempt, "attempt", None)
        said(attempt, "resume", resumed)
        said(attempt, "progress", (2, 3.0, 0.5))
    said("a", "progress", (4, 1.0, 0.0))  # of a worker that was taken for dead
    said("b", "shard", shards[0])
    progress._show_new()
    assert (progress.clips, progress._done, progress._part) == (4, 2, 0.5)
    assert caplog.messages == ["part 2/2: its worker died or failed; goes on, on moon"]
    assert display.begun == {2}
    display.end(Part(2, 2))
    assert told == shards  # the first worker may have finished the others without having said so


def test_an_outbox_delivers_again_what_did_not_arrive():
    mailbox, broken = Mailbox(), [True, True]

    def post(messages):
        if broken and broken.pop():
            raise ConnectionError
        return mailbox.post(messages)

    with Outbox(post, 3, "moon") as outbox:
        for i in range(5):
            outbox.send("shard", i)
        assert helpers.eventually(lambda: not broken)
        mailbox.stop()
        assert helpers.eventually(lambda: outbox.stopped)
        outbox.send("shard", 5)
    assert [(m.part, m.kind, m.value) for m in mailbox.take()][1:] == [(3, "shard", i) for i in range(6)]


# --- a worker ------------------------------------------------------------------------------------------------------


@pytest.fixture
def assignment(clips, tmp_path):
    with DriverToken(tmp_path / "out") as token:
        yield Assignment.of(work(clips, tmp_path / "out"), Options(workers=1, quiet=True, device="cpu"), token.token)


def do(assignment: Assignment, **more) -> Report | HlfeatError:
    return do_part(assignment, Part(2, 1), Mailbox().post, "moon", **more)


@pytest.mark.parametrize("name", ["hlfeat", "torch"])
def test_a_worker_of_another_version(assignment, name):
    other = replace(assignment, versions={**assignment.versions, name: "0.0.1"}, payload=b"of that version")
    error = do(other)
    assert isinstance(error, UsageError)
    assert str(error).startswith(f"moon has {name} ")
    assert str(error).endswith(", the driver 0.0.1: expected the same")


def test_a_worker_that_sees_another_folder(assignment, monkeypatch):
    monkeypatch.setattr(remote_part, "sees_token", lambda folder, token: sees_token(folder, token, patience=0))
    error = do(replace(assignment, token="another"))
    assert isinstance(error, UsageError)
    assert str(error) == f"moon does not see {assignment.out} as the driver does: expected a shared folder"


def test_relative_paths_are_those_of_the_driver(clips, tmp_path, monkeypatch):
    """And the index has them as the driver would write them."""
    monkeypatch.chdir(tmp_path)
    here = work(Path("clips"), Path("out"))
    with DriverToken(Path("out")) as token:
        assignment = Assignment.of(here, Options(workers=1, quiet=True, device="cpu"), token.token)
        assert assignment.folder == str(tmp_path)
        monkeypatch.chdir("/")
        for part in WHOLE.split(2):
            assert isinstance(do_part(assignment, part, Mailbox().post, "moon"), Report)
        assert os.getcwd() == "/"
        error = do(replace(assignment, folder=str(tmp_path / "gone")))
    assert isinstance(error, UsageError)
    assert f"moon has no folder {tmp_path}/gone" in str(error)
    monkeypatch.chdir(tmp_path)
    assert contents(Path("out")) == by_hand(Path("clips"), Path("want"), 2)


def test_a_worker_waits_for_the_one_before(assignment, tmp_path):
    lock = DirectoryLock(Layout(tmp_path / "out", Part(2, 1)))
    error = do(assignment, patience=0.1)
    assert isinstance(error, AnotherRunError)
    threading.Timer(1.5, lock.release).start()
    started = time.monotonic()
    assert isinstance(do(assignment), Report)
    assert time.monotonic() - started > 1


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OutputError("a process died"), True),
        (ValueError("odd"), True),
        (UsageError("wrong"), False),
        (TooManyFailuresError("three"), False),
        (InterruptedRunError(), False),
    ],
)
def test_what_is_tried_again(assignment, monkeypatch, error, again):
    def fail(*_):
        raise error

    monkeypatch.setattr(remote_part, "extract_part", fail)
    with pytest.raises(TryAgainError, match=r"\(on moon\)") if again else nullcontext():
        assert do(assignment) is error


def test_a_full_disk_is_not_tried_again(assignment, monkeypatch):
    monkeypatch.setattr(remote_part, "extract_part", lambda *_: (_ for _ in ()).throw(full))
    full = OutputError("no space left")
    full.__cause__ = OSError(errno.ENOSPC, "full")
    assert do(assignment) is full


# --- the token -----------------------------------------------------------------------------------------------------


def test_one_driver_at_a_time(tmp_path, clips):
    with DriverToken(tmp_path / "out") as token:
        assert sees_token(tmp_path / "out", token.token, patience=0)
        assert not sees_token(tmp_path / "out", "another", patience=0)
        assert not sees_token(tmp_path, token.token, patience=0)
        with pytest.raises(AnotherRunError, match="another run has workers here already"):
            DriverToken(tmp_path / "out")
        remove_abandoned_token(tmp_path / "out")
        run(clips, tmp_path / "out")  # neither is in the way of the other
        assert sees_token(tmp_path / "out", token.token, patience=0)
    assert not Layout(tmp_path / "out").driver.exists()


def test_what_a_killed_driver_leaves_is_removed(tmp_path, clips):
    driver = Layout(tmp_path / "out").driver
    driver.parent.mkdir()
    driver.write_text("dead")
    with DriverToken(tmp_path / "out") as token:
        assert sees_token(tmp_path / "out", token.token, patience=0)
    assert not driver.exists()
    driver.write_text("dead")
    for part in WHOLE.split(2):
        run(clips, tmp_path / "out", options=Options(quiet=True, part=part))
        assert driver.exists() == (part.index == 1)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OutputError, match="cannot be used as output: expected a folder, found a file"):
            DriverToken(out)


# --- Ray's part ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "cluster_has", "expected"),
    [
        (["auto"], True, 1), (["auto"], False, 0), (["cpu"], True, 0), (["cpu", "cpu"], True, 0), (["cuda"], False, 1),
        (["cuda:0"], True, 1), (["cuda:0", "cuda:1"], True, 2), (["cuda:0", "cuda:0"], True, 1),
    ],
)  # fmt: skip
def test_how_many_gpus_a_part_takes(devices, cluster_has, expected):
    assert gpus_of(devices, cluster_has) == expected


@pytest.mark.parametrize("devices", [["cuda:1"], ["cuda:0", "cuda:2"]])
def test_gpus_that_no_part_has(devices):
    with pytest.raises(UsageError, match=r"^device cuda:[12]: expected cuda"):
        gpus_of(devices, True)


def test_how_many_parts_a_node_does_at_once():
    assert _tasks_on({"CPU": 64.0, "GPU": 4.0}, 8, 1) == 4
    assert _tasks_on({"CPU": 64.0, "GPU": 4.0}, 8, 0) == 8
    assert _tasks_on({"CPU": 7.0}, 8, 0) == 0
    assert _tasks_on({}, 1, 1) == 0


def test_without_ray(clips, tmp_path, invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = invoke("extract", clips, "-o", tmp_path / "out", "--on", "ray")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--on ray: needs Ray: pip install 'hlfeat[ray]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_address_that_is_not_a_nodes(clips, tmp_path, invoke, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    done = invoke("extract", clips, "-o", tmp_path / "out", "--on", "ray")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "RAY_ADDRESS: expected HOST:PORT of a cluster that this machine is a node of" in done.stderr


def test_ray_is_named_in_one_module():
    modules = [p for p in (helpers.ROOT / "hlfeat").rglob("*.py") if "import ray" in p.read_text()]
    assert [p.name for p in modules] == ["ray_workers.py"]
