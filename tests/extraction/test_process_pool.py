"""Work is done by processes that may end at any time, and by nobody else afterwards."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError, OutputError
from hlfeat.extraction import one_device
from hlfeat.extraction.events import ClipInfo, ComputedClip, FailedClip, HeldFeatures
from hlfeat.extraction.options import Limits
from hlfeat.extraction.prefetch import Prefetcher
from hlfeat.extraction.process_pool import ProcessPool
from hlfeat.extraction.streaming import Step
from hlfeat.statistics.moments import no_moments
from tests.extraction.runs import contents, run

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="workers are processes on Linux"),
]


def info_of(clip: Clip) -> ClipInfo:
    return ClipInfo(clip, 16000, 1, 1.0, 0, 0, 1, 16000)


class Worker:
    """Does what the ids of the clips say, and writes them down.

    Args:
        log: a file of lines: process, id, and when it was begun and ended.
    """

    def __init__(self, log: Path) -> None:
        self.log, self.loader = log, self

    def start_worker(self):
        self.started = True
        with open(self.log.with_name("started"), "a") as f:
            print(os.getpid(), file=f)

    def in_worker(self, clips, cancelled):
        return [self.work(clip) for clip in clips]

    def work(self, clip):
        begun = time.monotonic()
        word, _, argument = clip.id.partition(" ")
        if word == "kill":
            os.kill(os.getpid(), getattr(signal, argument))
        elif word == "once" and not self.log.with_name(argument).exists():
            self.log.with_name(argument).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "exit":
            os._exit(int(argument))
        elif word == "raise":
            raise {"OSError": OSError(5, "disk on fire"), "odd": OddError("a", "b")}[argument]
        elif word == "sleep":
            time.sleep(float(argument))
        elif word == "fail":
            return FailedClip(clip, ClipError("corrupt", argument))
        assert self.started
        with open(self.log, "a") as f:
            print(os.getpid(), clip.id, begun, time.monotonic(), sep="\t", file=f)
        features = HeldFeatures(np.full((3, 1, 2), len(clip.id), np.float32), no_moments(1, 2), False)
        return ComputedClip(info_of(clip), [features])

    def apply(self, step, x, *arguments):
        if step == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        assert torch.is_inference_mode_enabled()
        return x * 2

    def channel_chunks(self, info, channel, cancelled):
        for n in range(5):
            if n == 3:
                word, _, argument = info.clip.id.partition(" ")
                if word == "fail":
                    raise ClipError("corrupt", argument)
                if word == "kill":
                    os.kill(os.getpid(), getattr(signal, argument))
                if word == "once" and not self.log.with_name(argument).exists():
                    self.log.with_name(argument).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if word == "sleep":
                    time.sleep(100)
            yield torch.full((1, 4), float(10 * channel + n))

    def shares_pass(self, clip):
        return clip.is_segment and "exact" not in clip.path

    def lines(self) -> list[tuple[int, str, float, float]]:
        rows = [line.split("\t") for line in self.log.read_text().splitlines()]
        return [(int(pid), id_, float(begun), float(ended)) for pid, id_, begun, ended in rows]


class OddError(Exception):
    """One that cannot be made again from its arguments."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(a)


@pytest.fixture
def worker(tmp_path):
    before = children()  # of other tests
    yield Worker(tmp_path / "log")
    assert children() <= before
    started = tmp_path / "started"
    assert not alive(map(int, started.read_text().split() if started.exists() else []))


def alive(pids):
    """Those that have not ended, whoever's children they are now."""
    states = {}
    for pid in pids:
        with suppress(OSError):
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return {pid for pid, state in states.items() if state != "Z"}


def children() -> set[int]:
    """Processes that come from this one, and that are still there."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.parent.name)] = int(parent)
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family - {os.getpid()}


def results(worker, ids, workers=2, chunk=1, paths=None, segments=False, stopped=lambda: False):
    """What becomes of clips of these ids, in order."""
    bounds = (0.0, 1.0) if segments else (None, None)
    clips = [Clip(id_, path, *bounds) for id_, path in zip(ids, paths or [""] * len(ids), strict=True)]
    with ProcessPool(worker, workers) as pool, Prefetcher(clips, pool, Limits(chunk_clips=chunk), stopped) as loaded:
        return list(loaded)


def codes(events):
    return [(e.clip.id, e.error.code) if isinstance(e, FailedClip) else (e.info.clip.id, "done") for e in events]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("chunk", [1, 4])
def test_every_clip_in_order(worker, workers, chunk):
    ids = ["fail x" if i % 7 == 5 else f"sleep {0.01 * (i % 3)}" for i in range(30)]
    events = results(worker, ids, workers, chunk)
    assert codes(events) == [(id_, "corrupt" if id_ == "fail x" else "done") for id_ in ids]
    assert all((e.channels[0].features == len(e.info.clip.id)).all() for e in events if isinstance(e, ComputedClip))
    pids = {pid for pid, *_ in worker.lines()}
    assert os.getpid() not in pids
    assert len(pids) == workers


def test_no_more_processes_than_there_is_work_for(worker):
    results(worker, ["a"], workers=8)
    assert len({pid for pid, *_ in worker.lines()}) == 1


@pytest.mark.parametrize("how", ["kill SIGSEGV", "kill SIGABRT", "kill SIGBUS", "exit 3"])
def test_a_crash_costs_one_clip(worker, how):
    ids = ["a", "b", how, "c", "d", "e", how, "f"]
    events = results(worker, ids, chunk=4)
    assert codes(events) == [(id_, "crashed" if id_ == how else "done") for id_ in ids]
    (message,) = {str(e.error) for e in events if isinstance(e, FailedClip)}
    assert message == f"the decoder crashed ({how.split()[1] if 'kill' in how else 'status 3'})"


def test_what_the_system_kills_is_tried_again_alone(worker):
    ids = [*["sleep 0.05"] * 9, "once flag", "kill SIGKILL", *["sleep 0.05"] * 9]
    events = results(worker, ids, workers=3)
    assert codes(events) == [(id_, "out-of-memory" if id_ == "kill SIGKILL" else "done") for id_ in ids]
    lines = worker.lines()
    (alone,) = [line for line in lines if line[1] == "once flag"]
    assert all(ended <= alone[2] or begun >= alone[3] for _, id_, begun, ended in lines if id_ != "once flag")


def test_errors_of_the_worker_are_raised(worker):
    with pytest.raises(OSError, match="disk on fire"):
        results(worker, ["a", "raise OSError"])
    with pytest.raises(RuntimeError, match=r"^OddError: a$"):
        results(worker, ["a", "raise odd"])


def test_stopping_does_not_wait_for_what_is_being_done(worker):
    begun, stopped = time.monotonic(), lambda: time.monotonic() > begun + 0.5
    events = results(worker, ["a", "sleep 100", "sleep 100", "b"], stopped=stopped)
    assert codes(events)[0] == ("a", "done")
    assert {code for _, code in codes(events)[1:3]} == {"cancelled"}
    assert time.monotonic() < begun + 30


def test_a_file_that_cannot_be_sought_is_read_by_one_process(worker):
    """And one that can, by all."""
    ids = ["sleep 0.01"] * 40
    results(worker, ids, workers=3, paths=["one"] * 40, segments=True)
    assert len({pid for pid, *_ in worker.lines()}) == 1
    worker.log.unlink()
    results(worker, ids, workers=3, paths=["exact"] * 40, segments=True)
    assert len({pid for pid, *_ in worker.lines()}) == 3


def test_long_clips_are_read_by_a_process_of_their_own(worker):
    before = len(children())
    with ProcessPool(worker, 1) as pool:
        read = lambda id_, channel=0: [int(x[0, 0]) for x in pool.read(info_of(Clip(id_, "")), channel, lambda: False)]  # noqa: E731
        assert read("a") == [0, 1, 2, 3, 4]
        assert read("a", 2) == [20, 21, 22, 23, 24]
        assert read("once flag") == [0, 1, 2, 3, 4]
        for id_, code in [("fail x", "corrupt"), ("kill SIGSEGV", "crashed"), ("kill SIGKILL", "out-of-memory")]:
            with pytest.raises(ClipError) as e:
                read(id_)
            assert e.value.code == code
        given_up = pool.read(info_of(Clip("a", "")), 0, lambda: False)
        next(given_up)
        given_up.close()
        with pytest.raises(ClipError, match="stopped"):
            list(pool.read(info_of(Clip("sleep", "")), 0, lambda: True))
        assert len(children()) == before + 1  # the server


def test_steps_of_long_clips(worker):
    with ProcessPool(worker, 2) as pool, Prefetcher([], pool, Limits()) as loaded:
        items = [torch.full((1, 100), float(i)) for i in range(20)]
        for x, y in zip(items, loaded.map(Step("double", worker.apply), iter(items)), strict=True):
            assert torch.equal(y, 2 * x)
        with pytest.raises(ClipError, match="the system ended the process"):
            list(loaded.map(Step("kill", worker.apply), items))


def test_the_server_is_killed(worker):
    with ProcessPool(worker, 1) as pool:
        pool.in_worker([Clip("a", "")], lambda: False)
        os.kill(pool._server._pid, signal.SIGKILL)
        with pytest.raises(OutputError, match="the process that starts workers died"):
            pool.in_worker([Clip("kill SIGSEGV", "")], lambda: False)


def test_the_system_gives_no_more_processes(worker, monkeypatch):
    """The run goes on with those that it has; without any, it ends."""
    ids = ["sleep 0.02"] * 12
    with ProcessPool(worker, 3) as pool:
        fork, before = pool._server.fork, []

        def fork_once(connections):
            before.append(1)
            if len(before) > 1:
                raise OutputError("the system gives no more processes: Resource temporarily unavailable")
            return fork(connections)

        monkeypatch.setattr(pool._server, "fork", fork_once)
        with Prefetcher([Clip(id_, "") for id_ in ids], pool, Limits(chunk_clips=1)) as loaded:
            assert codes(loaded) == [(id_, "done") for id_ in ids]
        assert len({pid for pid, *_ in worker.lines()}) == 1
        assert len(before) == 2
    with ProcessPool(worker, 3) as pool:
        monkeypatch.setattr(pool._server, "fork", fork_once)
        with pytest.raises(OutputError, match="no more processes"):
            pool.in_worker([Clip("a", "")], lambda: False)


def test_threads_of_the_pool_may_call_as_they_like(worker):
    """Crashes from many sides at once, with a process for every two threads."""
    ids = ["kill SIGSEGV" if i % 5 == 0 else f"sleep 0.00{i % 4}" for i in range(60)]
    with ProcessPool(worker, 3) as pool, ThreadPoolExecutor(6) as threads:
        chunks = [[Clip(id_, "") for id_ in ids[i : i + 3]] for i in range(0, 60, 3)]
        events = [e for some in threads.map(lambda chunk: pool.in_worker(chunk, lambda: False), chunks) for e in some]
    assert Counter(code for _, code in codes(events)) == {"done": 48, "crashed": 12}
    assert [id_ for id_, _ in codes(events)] == ids


def test_processes_are_forked_before_the_output_is_locked_and_the_device_is_used(clips, tmp_path, monkeypatch):
    """A lock, or a GPU's memory, that a process inherits would outlive the run's."""
    order = []

    def note(owner, name):
        call = getattr(owner, name)

        def noting(*arguments, **more):
            order.append(name)
            return call(*arguments, **more)

        monkeypatch.setattr(owner, name, noting)

    note(one_device, "make_pool")
    note(one_device, "OutputDir")
    note(torch.nn.Module, "to")
    run(clips, tmp_path / "out")
    assert [name for name in order if name != "to"] == ["make_pool", "OutputDir"]
    assert order.index("make_pool") < order.index("to")


def test_closing_the_pool_ends_what_is_being_done(worker):
    """As the end of the run's process does: the server ends its processes, however long they would still work."""
    with ThreadPoolExecutor(1) as threads:
        with ProcessPool(worker, 1) as pool:
            call = threads.submit(pool.in_worker, [Clip("sleep 10", "")], lambda: False)
            while not (started := worker.log.with_name("started")).exists() or not started.read_text().endswith("\n"):
                time.sleep(0.01)
        assert not alive([int(started.read_text())])
        with pytest.raises(OutputError, match="the process that starts workers died"):
            call.result()


@pytest.mark.parametrize("config", ["eleaf-8g-opt", "log-mel"])
def test_threads_do_the_same_where_processes_cannot_be_forked(clips, tmp_path, monkeypatch, config):
    """Also long clips, whose windows are computed by all workers."""
    limits = Limits(long_samples=10_000)
    run(clips, tmp_path / "processes", config=config, limits=limits)
    with monkeypatch.context() as patch:
        patch.setattr("hlfeat.extraction.process_pool.sys", SimpleNamespace(platform="darwin"))
        patch.setattr(os, "fork", lambda: pytest.fail("a process was forked"))
        run(clips, tmp_path / "threads", config=config, limits=limits)
    assert contents(tmp_path / "threads") == contents(tmp_path / "processes")


def test_an_answer_that_nobody_waits_for_is_nobody_elses(worker):
    with ProcessPool(worker, 1) as pool:
        assert codes(pool.in_worker([Clip("sleep 0.5", "")], lambda: True)) == [("sleep 0.5", "cancelled")]
        for id_ in ("a", "b"):
            assert codes(pool.in_worker([Clip(id_, "")], lambda: False)) == [(id_, "done")]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_that_stop_a_run_are_for_its_process(worker, name):
    """A terminal, or a batch system, sends them to all processes."""
    assert codes(results(worker, ["a", f"kill {name}", "b"], workers=1)) == [
        ("a", "done"), (f"kill {name}", "done"), ("b", "done")
    ]  # fmt: skip
    assert len({pid for pid, *_ in worker.lines()}) == 1
