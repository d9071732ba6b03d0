"""A worker elsewhere: what it checks, what it waits for, and what is worth another try."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from hlfeat.audio.clip import Clip
from hlfeat.errors import HlfeatError, InterruptedRunError, OutputError, TooManyFailuresError, UsageError
from hlfeat.extraction import remote_part
from hlfeat.extraction.mailbox import Mailbox
from hlfeat.extraction.options import Options
from hlfeat.extraction.remote_part import Assignment, TryAgainError, do_part
from hlfeat.extraction.report import Report
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.driver_token import DriverToken, sees_token
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import AnotherRunError, DirectoryLock
from tests.extraction.runs import contents, parts_by_hand, small_work


@pytest.fixture
def assignment(clips, tmp_path):
    with DriverToken(tmp_path / "out") as token:
        yield Assignment.of(
            small_work(clips, tmp_path / "out"), Options(workers=1, quiet=True, device="cpu"), token.token
        )


def do(assignment: Assignment, **more) -> Report | HlfeatError:
    return do_part(assignment, Part(2, 1), Mailbox().post, "moon", **more)


@pytest.mark.parametrize("name", ["hlfeat", "torch"])
def test_a_worker_of_another_version(assignment, name):
    other = replace(assignment, versions={**assignment.versions, name: "0.0.1"}, payload=b"of that version")
    error = do(other)
    assert isinstance(error, UsageError)
    assert str(error).startswith(f"moon has {name} ")
    assert str(error).endswith(", the driver 0.0.1: expected the same")


def test_a_formatter_of_the_drivers_own_script(assignment):
    """Its class is in `__main__`, which is another module in a worker."""
    report = do(replace(assignment, formatter=b"c__main__\nNoSuchFormatter\n."))
    assert isinstance(report, Report), report


def test_a_worker_that_sees_another_folder(assignment, monkeypatch):
    monkeypatch.setattr(remote_part, "sees_token", lambda folder, token: sees_token(folder, token, patience=0))
    error = do(replace(assignment, token="another"))
    assert isinstance(error, UsageError)
    assert str(error) == f"moon does not see {assignment.out} as the driver does: expected a shared folder"


def test_relative_paths_are_those_of_the_driver(clips, tmp_path, monkeypatch):
    """And the index has them as the driver would write them."""
    monkeypatch.chdir(tmp_path)
    here = small_work(Path("clips"), Path("out"))
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
    assert contents(Path("out")) == parts_by_hand(Path("clips"), Path("want"), 2)


def test_paths_that_are_the_same_everywhere_need_no_folder(assignment, tmp_path):
    assert assignment.folder is None
    work, options = pickle.loads(assignment.payload)
    work.inputs.clips.append(Clip("a", "s3://bucket/a.wav"))
    assert Assignment.of(work, options, "token").folder is None
    work.inputs.clips.append(Clip("b", "b.wav"))
    assert Assignment.of(work, options, "token").folder == os.getcwd()


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
    mailbox = Mailbox()
    with pytest.raises(TryAgainError, match=r"\(on moon\)") if again else nullcontext():
        assert do_part(assignment, Part(2, 1), mailbox.post, "moon") is error
    said = [message.value[1] for message in mailbox.take() if message.kind == "log"]
    assert any(str(error) in text for text in said) == again


def test_a_full_disk_is_not_tried_again(assignment, monkeypatch):
    monkeypatch.setattr(remote_part, "extract_part", lambda *_: (_ for _ in ()).throw(full))
    full = OutputError("no space left")
    full.__cause__ = OSError(errno.ENOSPC, "full")
    assert do(assignment) is full
