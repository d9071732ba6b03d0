"""Writes on conditions, answers that are lost, and several runs that want one prefix of a bucket."""

from __future__ import annotations

import json
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hlfeat.errors import HlfeatError, OutputError
from hlfeat.extraction import one_device
from hlfeat.partition import WHOLE, Part
from hlfeat.remote import s3_writes
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.s3_writes import ANY, S3Prefix
from hlfeat.storage import heartbeat, lease
from hlfeat.storage.output_dir import OutputDir
from tests import helpers
from tests.remote import buckets
from tests.remote.buckets import ONE, URL, left, run
from tests.remote.object_server import ObjectServer

FAST = Retries(times=3, first=0.01)
RUNNING = "another run is writing"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_device, "Retries", partial(Retries, first=0.01))


@pytest.fixture
def prefix(server: ObjectServer) -> S3Prefix:
    server.put("speech", {})
    return S3Prefix("speech", "features", FAST)


# --- writes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["lost", "busy", "hung up"])
def test_a_write_whose_answer_is_lost_is_no_conflict(server: ObjectServer, prefix: S3Prefix, what: str):
    server.fail(what, method="PUT", times=2)
    first = prefix.put("a", b"1", None)
    server.fail(what, method="PUT", times=2)
    second = prefix.put("a", b"2", first)
    assert [prefix.get("a").tag, prefix.get("a").data] == [second, b"2"]
    for stale in (None, first):
        with pytest.raises(RemoteError, match="a was written by another run") as caught:
            prefix.put("a", b"3", stale)
        assert caught.value.conflict
    prefix.put("a", b"4", ANY)
    assert server.objects("speech") == {"features/a": b"4"}


@pytest.mark.parametrize("times", [4, 9])
def test_another_request_for_the_object_is_at_work(
    server: ObjectServer, prefix: S3Prefix, monkeypatch: pytest.MonkeyPatch, times: int
):
    """It may be one of this run, whose answer was lost: it says nothing about other runs. It takes some time."""
    server.fail("at work", method="PUT", times=times)
    waits: list[float] = []
    monkeypatch.setattr(Retries, "_wait", lambda self, seconds, stays: waits.append(seconds))
    if times > 5:
        with pytest.raises(RemoteError, match="ConditionalRequestConflict") as caught:
            prefix.put("a", b"1", None)
        assert not caught.value.conflict
    else:
        prefix.put("a", b"1", None)
        assert prefix.get("a").data == b"1"
    assert len(waits) == min(times, 5)


def test_an_upload_has_at_most_ten_thousand_parts(
    server: ObjectServer, prefix: S3Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As S3 takes no more; here it is two."""
    monkeypatch.setattr(s3_writes, "_WHOLE", 1 << 20)
    monkeypatch.setattr(s3_writes, "_PART", 1 << 20)
    monkeypatch.setattr(s3_writes, "_PARTS", 2)
    data = os.urandom((11 << 20) + 1)
    (tmp_path / "data").write_bytes(data)
    prefix.upload("shard-00000.npy", tmp_path / "data", None)
    assert prefix.get("shard-00000.npy").data == data
    assert len([request for request in server.requests() if "shard" in request and "PUT" in request]) == 2


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [("lost", "POST", "uploads"), ("busy", "PUT", "partNumber=2"), ("lost", "POST", "uploadId")],
        [("hung up", "PUT", "partNumber=1"), ("busy", "POST", "uploadId")],
    ],
)
def test_a_large_file_in_parts(
    server: ObjectServer, prefix: S3Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: list[Any]
):
    monkeypatch.setattr(s3_writes, "_WHOLE", 1 << 20)
    monkeypatch.setattr(s3_writes, "_PART", 5 << 20)
    data = os.urandom((11 << 20) + 7)
    (tmp_path / "data").write_bytes(data)
    for what, method, path in rules:
        server.fail(what, path, method, times=2)
    tag = prefix.upload("shard-00000.npy", tmp_path / "data", None)
    stored = prefix.get("shard-00000.npy")
    assert (stored.tag, stored.data == data) == (tag, True)
    with pytest.raises(RemoteError, match="was written by another run"):
        prefix.upload("shard-00000.npy", tmp_path / "data", None)
    prefix.upload("shard-00000.npy", tmp_path / "data", tag)


def test_unfinished_uploads_are_given_up(
    server: ObjectServer, prefix: S3Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a write that fails; and by the next run of the part, of one that was killed."""
    monkeypatch.setattr(s3_writes, "_WHOLE", 1 << 20)
    (tmp_path / "data").write_bytes(bytes(2 << 20))
    client = server.client()

    def unfinished() -> set[str]:
        return {upload["Key"] for upload in client.list_multipart_uploads(Bucket="speech").get("Uploads", [])}

    server.fail("refused", "partNumber=1", "PUT")
    with pytest.raises(RemoteError, match="access is denied"):
        prefix.upload("shard-00000.npy", tmp_path / "data", None)
    assert unfinished() == set()
    ours = [f"features/shard-p{n}of2-00000.npy" for n in (1, 2)]
    names = [*ours, "features/notes", "other/shard-00000.npy"]
    for name in names:
        client.create_multipart_upload(Bucket="speech", Key=name)
    OutputDir(URL, Part(2, 1)).close()
    assert unfinished() == {*names[1:]}
    OutputDir(URL).close()
    assert unfinished() == {*names[2:]}
    server.fail("refused", "uploads", "GET")
    OutputDir(URL).close()


@pytest.mark.parametrize(("what", "times"), [("busy", 2), ("lost", 1)])
def test_every_request_of_a_run_fails(server: ObjectServer, tmp_path: Path, what: str, times: int):
    folder = buckets.some_clips(tmp_path / "clips", 2)
    want = buckets.local(folder, tmp_path / "local")
    server.put("speech", {})
    for name in (*want, "hlfeat.lock", "report.json"):
        for method in ("PUT", "DELETE", "GET"):
            server.fail(what, f"/features/{name}", method, times=times)
    server.fail(what, "list-type", times=times)
    run(folder)
    done = server.requests()
    server.forget()
    assert left(server) == want
    for name in want:
        assert sum(f"PUT /speech/features/{name} " in request for request in done) > times


def test_a_service_that_stays_busy_ends_the_run(server: ObjectServer, tmp_path: Path):
    folder = helpers.good_clips(tmp_path / "clips", 2, longest=0.2)
    server.put("speech", {})
    server.fail("busy", "shard-00001.npy", "PUT", times=6)
    with pytest.raises(OutputError, match=r"^s3://speech/features/shard-00001.npy: cannot be written: .*; what is fin"):
        run(folder, shard=1)
    report = json.loads(server.objects("speech")["features/report.json"])
    assert report["interrupted"].startswith("s3://speech/features/shard-00001.npy: cannot be written")
    run(folder, shard=1)
    assert left(server) == buckets.local(folder, tmp_path / "local", shard=1)


# --- leases ------------------------------------------------------------------------------------------------------


def test_one_run_at_a_time_or_one_for_each_part(server: ObjectServer):
    server.put("speech", {})
    parts = WHOLE.split(2)
    with OutputDir(URL, parts[0]):
        with OutputDir(URL, parts[1]):
            assert server.keys("speech") == ["features/hlfeat-p1of2.lock", "features/hlfeat-p2of2.lock"]
        with pytest.raises(OutputError, match=rf"{URL}: {RUNNING} part 1/2 here \(process {os.getpid()} on .*renewed"):
            OutputDir(URL, parts[0])
        with pytest.raises(OutputError, match=rf"{RUNNING} here .*hlfeat-p1of2.lock was renewed"):
            OutputDir(URL)
        assert server.keys("speech") == ["features/hlfeat-p1of2.lock"]
    with OutputDir(URL), pytest.raises(OutputError, match=f"{RUNNING} part 2/2 here"):
        OutputDir(URL, parts[1])
    assert server.keys("speech") == []


def leave(server: ObjectServer, name: str, **changes: object) -> None:
    """A lease of this process, but for what is changed."""
    client, output = server.client(), OutputDir(URL)
    data = json.loads(server.objects("speech")["features/hlfeat.lock"])
    output.close()
    client.put_object(Bucket="speech", Key=f"features/{name}", Body=json.dumps({**data, **changes}).encode())


@pytest.mark.parametrize("name", ["hlfeat.lock", "hlfeat-p2of2.lock"])
def test_a_dead_holder_of_this_machine_is_no_holder(server: ObjectServer, name: str):
    server.put("speech", {})
    leave(server, name, pid=buckets.ended_process())
    with OutputDir(URL):
        assert server.keys("speech") == ["features/hlfeat.lock"]


@pytest.mark.parametrize("name", ["hlfeat.lock", "hlfeat-p2of2.lock"])
def test_a_holder_elsewhere_is_dead_after_minutes(server: ObjectServer, monkeypatch: pytest.MonkeyPatch, name: str):
    server.put("speech", {})
    leave(server, name, machine="another", host="there")
    with pytest.raises(OutputError, match=r"on there, .* renewed \d s ago\); if it was killed, try again in 1[12]\d s"):
        OutputDir(URL)
    assert server.keys("speech") == [f"features/{name}"]
    monkeypatch.setattr(lease, "STALE", 0.0)
    with OutputDir(URL):
        assert server.keys("speech") == ["features/hlfeat.lock"]


@pytest.mark.parametrize("data", [b"", b"no lease", b"[]", b'{"renewed": 1}'])
def test_a_lease_that_says_nothing(server: ObjectServer, monkeypatch: pytest.MonkeyPatch, data: bytes):
    """Empty it was taken away from somebody; anything else is somebody's until it is old."""
    server.put("speech", {"features/hlfeat.lock": data})
    if data:
        with pytest.raises(OutputError, match=r"another run is writing here \(hlfeat.lock was renewed"):
            OutputDir(URL)
        monkeypatch.setattr(lease, "STALE", 0.0)
    OutputDir(URL).close()


def test_a_lease_is_renewed_and_a_lost_one_ends_the_run(server: ObjectServer, monkeypatch: pytest.MonkeyPatch):
    server.put("speech", {})
    monkeypatch.setattr(lease, "BEAT", 0.05)
    key = "features/hlfeat.lock"
    with OutputDir(URL) as output:
        first = server.objects("speech")[key]
        assert helpers.eventually(lambda: server.objects("speech")[key] != first)
        output.check_place()
        server.client().put_object(Bucket="speech", Key=key, Body=b"another's")
        assert helpers.eventually(lambda: is_lost(output))
        with pytest.raises(OutputError, match=r"^s3://speech/features/hlfeat.lock: was removed, or taken over by"):
            output.files.write(output.layout.report, b"{}")
    assert server.objects("speech") == {key: b"another's"}


def is_lost(output: OutputDir) -> bool:
    try:
        output.check_place()
    except OutputError:
        return True
    return False


def test_a_renewal_whose_answers_were_all_lost(server: ObjectServer):
    """The network went away while the server was doing it: the lease is still this run's, in another version."""
    server.put("speech", {})
    with OutputDir(URL, retries=Retries(times=1, first=0.01)) as output:
        server.fail("lost", "lock", "PUT")
        server.fail("busy", "lock", "PUT|HEAD", times=2)
        with pytest.raises(RemoteError, match="SlowDown"):
            output._open.lock._renew()
        server.forget()
        output._open.lock._renew()
        output.check_place()
    assert server.keys("speech") == []


def test_a_lease_that_was_left_is_nobodys_in_the_end(server: ObjectServer, monkeypatch: pytest.MonkeyPatch):
    """The network was away when the run gave it up, and its process lives."""
    server.put("speech", {})
    server.fail("refused", "lock", "DELETE")
    OutputDir(URL).close()
    with pytest.raises(OutputError, match=r"renewed \d s ago\); if that run has ended, try again in 1[12]\d s"):
        OutputDir(URL)
    monkeypatch.setattr(lease, "STALE", 0.0)
    OutputDir(URL).close()
    assert server.keys("speech") == []


def test_a_run_that_stops_asks_again(server: ObjectServer):
    """The service is busy when the last things are written: they are, and no other run has to wait for the lease."""
    server.put("speech", {})
    stopped: list[bool] = []
    retries = Retries(first=0.01, stopped=lambda: bool(stopped), grace=5.0)
    with OutputDir(URL, retries=retries) as output:
        stopped.append(True)
        server.fail("busy", "report", "PUT", times=2)
        server.fail("busy", "lock", "DELETE", times=2)
        output.interrupt({})
    assert server.keys("speech") == ["features/report.json"]
    with OutputDir(URL, retries=replace(retries, grace=0.0)) as output:
        server.fail("busy", "report", "PUT")
        with pytest.raises(OutputError, match="cannot be written"):
            output.interrupt({"other": 1})


def test_a_lease_that_cannot_be_renewed(server: ObjectServer, monkeypatch: pytest.MonkeyPatch):
    """After two beats nobody knows whose it is, until it is renewed."""
    server.put("speech", {})
    with OutputDir(URL, retries=Retries(times=0)) as output:
        now = lease._clock()
        monkeypatch.setattr(lease, "_clock", lambda: now + 2 * lease.BEAT + 1)
        server.fail("busy", "lock", "PUT")
        with pytest.raises(OutputError, match=r"hlfeat.lock: cannot be renewed: .*; what is finished is kept"):
            output.files.write(output.layout.report, b"{}")
        output.files.write(output.layout.report, b"{}")
    assert server.keys("speech") == ["features/report.json"]


def test_the_lease_of_another_is_not_removed(server: ObjectServer, monkeypatch: pytest.MonkeyPatch):
    """The network was away while a run gave up its own; it is another's when the request is made again."""
    server.put("speech", {})
    key = "features/hlfeat.lock"

    def away() -> bool:
        server.client().put_object(Bucket="speech", Key=key, Body=b"another's")
        now = lease._clock()
        monkeypatch.setattr(lease, "_clock", lambda: now + lease.STALE)
        return False

    output = OutputDir(URL, retries=replace(FAST, stopped=away))
    server.fail("busy", "hlfeat.lock", "DELETE")
    output.close()
    assert server.objects("speech") == {key: b"another's"}


# --- two runs ----------------------------------------------------------------------------------------------------


def _child(environment: Mapping[str, str], answer: multiprocessing.connection.Connection, elsewhere: bool, *args: Any):
    os.environ.update(environment)
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    if elsewhere:
        heartbeat._this_machine = lambda: "another"
        lease.BEAT, lease.STALE = 0.2, 1.0
    answer.send(None)
    answer.recv()
    try:
        run(*args)
        answer.send("done")
    except HlfeatError as e:
        answer.send(str(e))


class Run:
    """A run in a process of its own, which waits to begin."""

    def __init__(self, server: ObjectServer, *args: Any, elsewhere: bool = False) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.remote.buckets"])
        self._answer, theirs = context.Pipe()
        self.process = context.Process(target=_child, args=(server.environment, theirs, elsewhere, *args))
        self.process.start()
        theirs.close()
        self._answer.recv()

    def begin(self) -> None:
        self._answer.send(None)

    def end(self) -> str:
        """ "done", or the message of its error."""
        assert self._answer.poll(60)
        text = self._answer.recv()
        self.process.join(60)
        assert self.process.exitcode == 0
        return str(text)


@pytest.fixture
def runs(server: ObjectServer) -> Iterator[Any]:
    started: list[Run] = []

    def start(*args: Any, **options: Any) -> Run:
        started.append(Run(server, *args, **options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.join(60)


def test_of_two_runs_one_wins(server: ObjectServer, tmp_path: Path, runs: Any):
    folder = helpers.good_clips(tmp_path / "clips", 6, longest=0.2)
    want = buckets.local(folder, tmp_path / "local", shard=1)
    server.put("speech", {})
    two = [runs(folder, URL, ONE, 1) for _ in range(2)]
    server.fail("slow", "hlfeat.lock", "PUT", times=2, seconds=0.2)  # both have seen that there is no lease
    for one in two:
        one.begin()
    ended = sorted((one.end() for one in two), key=lambda text: text != "done")
    assert ended[0] == "done"
    assert RUNNING in ended[1]
    assert left(server) == want


def state_of(process: multiprocessing.process.BaseProcess) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("where", ["shard-00001.npy", "shard-00001.jsonl"])
def test_a_run_that_was_suspended_writes_nothing_more(
    server: ObjectServer, tmp_path: Path, runs: Any, monkeypatch: pytest.MonkeyPatch, where: str
):
    """Another one has taken over its lease, and done its work."""
    folder = helpers.good_clips(tmp_path / "clips", 3, longest=0.2)
    want = buckets.local(folder, tmp_path / "local", shard=1)
    server.put("speech", {})
    one = runs(folder, URL, ONE, 1, elsewhere=True)
    server.kill(one.process.pid, path=where, sent=signal.SIGSTOP)
    one.begin()
    assert helpers.eventually(lambda: state_of(one.process) == "T")
    monkeypatch.setattr(lease, "STALE", 1.0)

    def taken_over() -> bool:
        try:
            run(folder, shard=1)
        except OutputError as e:
            if RUNNING not in str(e):
                raise
            return False
        return True

    assert helpers.eventually(taken_over)
    assert left(server) == want
    before = server.objects("speech")
    os.kill(one.process.pid, signal.SIGCONT)
    message = one.end()
    assert "another run" in message
    assert server.objects("speech") == before


@pytest.mark.parametrize("what", ["shard-00001.npy", "shard-00001.jsonl"])
def test_a_request_is_not_made_again_without_the_lease(
    server: ObjectServer, tmp_path: Path, runs: Any, monkeypatch: pytest.MonkeyPatch, what: str
):
    """The network was away so long that another run has begun, which has not come to that shard."""
    folder = helpers.good_clips(tmp_path / "clips", 3, longest=0.2)
    want = buckets.local(folder, tmp_path / "local", shard=1)
    server.put("speech", {})
    one = runs(folder, URL, ONE, 1, elsewhere=True)
    server.kill(one.process.pid, path=what, sent=signal.SIGSTOP)
    one.begin()
    assert helpers.eventually(lambda: state_of(one.process) == "T")
    monkeypatch.setattr(lease, "STALE", 1.0)
    assert helpers.eventually(lambda: can_be_locked())
    with OutputDir(URL) as output:
        output.catalog.clean(everything=False)
        before = server.objects("speech")
        os.kill(one.process.pid, signal.SIGCONT)
        assert "taken over by another run" in one.end()
        assert {k: v for k, v in server.objects("speech").items() if not k.endswith(".lock")} == {
            k: v for k, v in before.items() if not k.endswith(".lock")
        }
    run(folder, shard=1)
    assert left(server) == want


def can_be_locked() -> bool:
    try:
        OutputDir(URL).close()
    except OutputError as e:
        if RUNNING not in str(e):
            raise
        return False
    return True
