"""Parts done by workers elsewhere, without a cluster: workers in this process, and what each says and checks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from hlfeat.errors import InterruptedRunError, OutputError, TooManyFailuresError, UsageError
from hlfeat.extraction import on_workers
from hlfeat.extraction.mailbox import Mailbox, Message, Outbox
from hlfeat.extraction.on_workers import Result, extract_on_workers
from hlfeat.extraction.options import Options
from hlfeat.extraction.part_display import PartDisplay
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.remote_part import Assignment, do_part
from hlfeat.extraction.run import Hooks
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.driver_token import DriverToken
from hlfeat.storage.layout import Layout
from tests import helpers
from tests.extraction.runs import contents, parts_by_hand, run, small_work

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
            small_work(clips, out), THREE, Hooks(lambda: False, told.append, progress), lambda _: here
        )
    assert contents(out) == parts_by_hand(clips, tmp_path / "want", 3)
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
    extract_on_workers(small_work(clips, out), replace(THREE, parts=None), Hooks(), lambda _: here)
    assert contents(out) == parts_by_hand(clips, tmp_path / "want", expected)
    assert any("wait until such a node joins" in m for m in caplog.messages) == (capacity == 0)


def test_a_part_that_fails_lets_the_others_finish(clips, tmp_path, caplog):
    class OneFails(Here):
        def do(self, part: Part) -> Result:
            return OutputError("its disk is broken") if part.index == 2 else super().do(part)

    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"^1 of 3 parts failed; what is finished is kept: run the same again$"):
        extract_on_workers(small_work(clips, out), THREE, Hooks(), lambda _: OneFails())
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == ["part 2/3: its disk is broken"]
    extract_on_workers(small_work(clips, out), THREE, Hooks(), lambda _: Here())
    assert contents(out) == parts_by_hand(clips, tmp_path / "want", 3)


def test_a_part_with_too_many_failed_clips_stops_the_others(clips, tmp_path, caplog):
    (clips / "0.wav").write_text("no audio")  # of the first part
    out, here = tmp_path / "out", Here()
    with pytest.raises(TooManyFailuresError, match=r"^on_error: stopped at .*0\.wav: not-audio") as stopped:
        extract_on_workers(small_work(clips, out), replace(THREE, on_error="stop"), Hooks(), lambda _: here)
    assert here.calls == [("stop", {1}), ("close", ())]
    assert stopped.value.report is not None
    assert stopped.value.report["interrupted"].startswith("on_error: stopped at")
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []
    assert not list(out.glob("*p[23]of3*.npy"))


def test_a_part_that_somebody_else_stops_is_named(clips, tmp_path, caplog):
    class Cancelled(Here):
        def do(self, part: Part) -> Result:
            return InterruptedRunError("its task was cancelled") if part.index == 2 else super().do(part)

    with pytest.raises(OutputError, match=r"^1 of 3 parts failed"):
        extract_on_workers(small_work(clips, tmp_path / "out"), THREE, Hooks(), lambda _: Cancelled())
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == ["part 2/3: its task was cancelled"]


def test_what_no_repetition_mends(clips, tmp_path):
    def no_cluster(_: Options) -> Here:
        raise AssertionError("the name is wrong on every machine")

    class OtherVersions(Here):
        def do(self, part: Part) -> Result:
            return UsageError("moon has torch 1.0, the driver 2.0: expected the same")

    with pytest.raises(OutputError, match=r"^3 of 3 parts failed; what is finished is kept$"):
        extract_on_workers(small_work(clips, tmp_path / "out"), THREE, Hooks(), lambda _: OtherVersions())
    with pytest.raises(UsageError, match=r"^device gpu: expected auto, cpu, cuda, cuda:N or mps$"):
        extract_on_workers(
            small_work(clips, tmp_path / "out"),
            replace(THREE, device="cpu,gpu"),
            Hooks(),
            no_cluster,
        )


def test_a_run_without_workers_removes_nothing(clips, tmp_path):
    """Ray is not installed, or there is no cluster at the address; or another driver has workers at the folder."""

    def no_cluster(_: Options) -> Here:
        raise OutputError("no cluster")

    out, anew = tmp_path / "out", replace(THREE, overwrite=True)
    want = parts_by_hand(clips, out, 3)
    with pytest.raises(OutputError, match="no cluster"):
        extract_on_workers(small_work(clips, out), anew, Hooks(), no_cluster)
    with DriverToken(out), pytest.raises(OutputError, match="another run has workers here already"):
        extract_on_workers(small_work(clips, out), anew, Hooks(), lambda _: Here())
    with pytest.raises(InterruptedRunError):  # asked to stop while it connects
        extract_on_workers(small_work(clips, out), anew, Hooks(lambda: True), lambda _: Here())
    assert contents(out) == want
    extract_on_workers(small_work(clips, out), replace(anew, parts=2), Hooks(), lambda _: Here())
    assert contents(out) == parts_by_hand(clips, tmp_path / "want", 2)


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
        extract_on_workers(small_work(clips, out), THREE, Hooks(lambda: bool(told), told.append), lambda _: here)
    assert here.calls == [("stop", {1}), *([] if at_once else [("kill", ())]), ("close", ())]
    assert stopped.value.report is not None
    assert stopped.value.report["clips"] == 4
    assert not Layout(out).driver.exists()
    extract_on_workers(small_work(clips, out), THREE, Hooks(), lambda _: Here())
    assert contents(out) == parts_by_hand(clips, tmp_path / "want", 3)


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
    assert caplog.messages == ["part 2/2: its worker died or failed; continues on moon"]
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
