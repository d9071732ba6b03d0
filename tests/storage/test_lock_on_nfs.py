"""The lock where `flock` is what NFS makes of it: a lock of bytes of a file open for writing, and of a folder nothing.

Another machine is a process that sees the same files, and whose locks of folders nobody else sees.
"""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hlfeat.errors import OutputError
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import DirectoryLock
from hlfeat.storage.output_dir import OutputDir
from tests import helpers
from tests.conftest import Command

BUSY = "another run is writing"


def nfs_flock(file: object, how: int) -> None:
    """As the client of NFS: bytes are locked on the server, exclusively only where the file is open for writing."""
    descriptor = file if isinstance(file, int) else file.fileno()  # type: ignore[attr-defined]
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        return
    kind = {fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}[
        how & ~fcntl.LOCK_NB
    ]
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


@pytest.fixture(autouse=True)
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", nfs_flock)


class Machine:
    """Another machine, which locks and unlocks as it is told: a process that was forked here."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other,), daemon=True)
        self.process.start()

    def ask(self, verb: str, folder: Path, part: Part = WHOLE) -> str:
        self._pipe.send((verb, folder, part))
        assert self._pipe.poll(60)
        return self._pipe.recv()


def _work(pipe: Connection) -> None:
    held: dict[Part, OutputDir] = {}
    while True:
        verb, folder, part = pipe.recv()
        try:
            if verb == "lock":
                held[part] = OutputDir(folder, part)
            else:
                held.pop(part).close()
            pipe.send("done")
        except OutputError as e:
            pipe.send(str(e))


@pytest.fixture
def start_machine() -> Iterator[Callable[[], Machine]]:
    machines: list[Machine] = []

    def start() -> Machine:
        machines.append(Machine())
        return machines[-1]

    yield start
    for machine in machines:
        machine.process.kill()
        machine.process.join()


def lock(folder: Path, part: Part) -> str:
    try:
        OutputDir(folder, part).close()
    except OutputError as e:
        return str(e)
    return "done"


def test_the_emulation_is_what_nfs_does(tmp_path: Path):
    path = tmp_path / "f"
    path.touch()
    for mode, error in ((os.O_RDONLY, errno.EBADF), (os.O_RDWR, None)):
        file = os.open(path, mode)
        with suppress(OSError) if error is None else pytest.raises(OSError, match=os.strerror(error)):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(file)
    one, other = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(one), os.close(other)


def test_two_machines_exclude_each_other_by_the_file_alone(tmp_path: Path, start_machine: Callable[[], Machine]):
    other, one, two = start_machine(), Part(2, 1), Part(2, 2)
    for theirs in (WHOLE, one):
        assert other.ask("lock", tmp_path, theirs) == "done"
        for mine in (WHOLE, one, two):
            assert (BUSY not in lock(tmp_path, mine)) == (theirs == one and mine == two)
        assert other.ask("unlock", tmp_path, theirs) == "done"
        for mine in (WHOLE, one, two):
            with OutputDir(tmp_path, mine):
                assert (BUSY in other.ask("lock", tmp_path, theirs)) == (WHOLE in (mine, theirs) or mine == theirs)
                if mine == two and theirs == one:
                    assert other.ask("unlock", tmp_path, theirs) == "done"
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_dies_leaves_a_file_that_nobody_holds(tmp_path: Path, start_machine: Callable[[], Machine]):
    for part in (WHOLE, Part(2, 1)):
        other = start_machine()
        assert other.ask("lock", tmp_path, part) == "done"
        other.process.kill()
        other.process.join()
        assert Layout(tmp_path, part).lock.exists()
        assert lock(tmp_path, WHOLE) == "done"
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_removed_loses_the_lock_to_another_machine(tmp_path: Path, start_machine: Callable[[], Machine]):
    """The run that has lost it ends when it next looks, and does not remove the file of the other one."""
    other = start_machine()
    with OutputDir(tmp_path) as output:
        output.check_place()
        output.layout.lock.unlink()
        with pytest.raises(OutputError, match=r"hlfeat.lock: was removed, or taken over by another run"):
            output.check_place()
        assert other.ask("lock", tmp_path) == "done"
        with pytest.raises(OutputError, match=r"hlfeat.lock: was removed, or taken over by another run"):
            output.check_place()
    assert BUSY in lock(tmp_path, WHOLE)
    assert other.ask("unlock", tmp_path) == "done"


def test_what_stat_says_may_be_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_machine: Callable[[], Machine]
):
    """The file is removed between `open` and `flock`. The client goes on naming it for seconds: `open` asks anew."""
    other, third = start_machine(), start_machine()
    assert other.ask("lock", tmp_path) == "done"
    before, done = os.stat(Layout(tmp_path).lock), []

    def flock(file: object, how: int) -> None:
        if not done and isinstance(file, int) and os.path.samestat(os.fstat(file), before):
            done.append(other.ask("unlock", tmp_path))
            done.append(third.ask("lock", tmp_path))
        nfs_flock(file, how)

    old = os.stat

    def cached(path: object, **options: object) -> os.stat_result:
        return before if str(path) == str(Layout(tmp_path).lock) else old(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "stat", cached)
    assert BUSY in lock(tmp_path, WHOLE)
    assert done == ["done", "done"]


@pytest.mark.parametrize(("call", "number"), [("flock", 1), ("fstat", 1), ("fstat", 2), ("fstat", 3)])
def test_a_stale_handle_is_that_of_a_file_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
):
    module = fcntl if call == "flock" else os
    real, calls = getattr(module, call), []

    def stale(file: object, *arguments: object) -> object:
        if isinstance(file, int) and os.readlink(f"/proc/self/fd/{file}").endswith(".lock"):
            calls.append(file)
            if len(calls) == number:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(file, *arguments)

    monkeypatch.setattr(module, call, stale)
    with OutputDir(tmp_path) as output:
        output.check_place()
    assert len(calls) > number
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_run_took_for_nobodys_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A whole run removes the file of a part that has just been made, and gives up before the part looks at its own."""
    check = DirectoryLock._check_others

    def removed(self: DirectoryLock, has_locks: bool) -> None:
        check(self, has_locks)
        self.layout.lock.unlink()

    monkeypatch.setattr(DirectoryLock, "_check_others", removed)
    with pytest.raises(OutputError, match=BUSY):
        OutputDir(tmp_path, Part(2, 1))


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
@pytest.mark.parametrize("part", [WHOLE, Part(2, 1)])
def test_what_is_no_regular_file_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, part: Part):
    monkeypatch.undo()  # on a disk
    out, target = tmp_path / "out", tmp_path / "target"
    out.mkdir()
    path = Layout(out).lock
    if kind == "link":
        target.write_text("kept")
    if kind.startswith("link"):
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    for _ in range(2):  # the lock of the folder is given up
        with pytest.raises(OutputError, match=r"hlfeat.lock: expected a regular file, as it is the lock of a run"):
            OutputDir(out, part)
    assert target.exists() == (kind == "link")
    if kind == "link":
        assert target.read_text() == "kept"


def test_all_commands_take_this_lock(tmp_path: Path, invoke: Command, start_machine: Callable[[], Machine]):
    clips, out, other = helpers.good_clips(tmp_path / "clips", 1), tmp_path / "out", start_machine()
    assert invoke("extract", clips, "-o", out, "-c", "log-mel", "--workers", 1).returncode == 0
    commands = [["repair", out], ["extract", clips, "-o", out, "-c", "log-mel"], ["pitch", clips, "-o"]]
    commands += [["convert", out, "--dtype", "float16", "-o"], ["convert", out, "--format", "kaldi", "-o"]]
    for number, command in enumerate(commands):
        folder = out if command[-1] != "-o" else tmp_path / f"out{number}"
        assert other.ask("lock", folder) == "done"
        refused = invoke(*command, *([folder] if command[-1] == "-o" else []))
        assert (refused.returncode, refused.stderr.count(BUSY)) == (1, 1), refused.stderr
        assert other.ask("unlock", folder) == "done"
