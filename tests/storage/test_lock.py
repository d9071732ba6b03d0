"""Locks, and file systems with gaps: without locks, or where a folder cannot be synced."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import pytest

import hlfeat as package
from hlfeat.errors import OutputError
from hlfeat.files import write_atomically
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.heartbeat import HeartbeatLock, HeldError, Holder, LockFile
from hlfeat.storage.layout import FileName, Layout
from hlfeat.storage.output_dir import OutputDir
from tests import helpers
from tests.conftest import command
from tests.extraction.runs import contents, run

NO_LOCKS = ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EINVAL"]
CANNOT_SYNC = ["EINVAL", "EBADF", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"]


def failing(name: str) -> Callable[..., None]:
    """A system call that fails with this error."""
    number = getattr(errno, name)

    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture
def no_locks(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing("ENOLCK"))


@cache
def a_dead_process() -> Holder:
    """The holder that a process of this machine was which has ended."""
    code = "import json, dataclasses; from hlfeat.storage.heartbeat import Holder; "
    code += "print(json.dumps(dataclasses.asdict(Holder.this_process())))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    holder = Holder.parse(out.stdout)
    assert holder is not None
    return holder


def leave(path: Path, holder: Holder | None, age: float = 0.0) -> None:
    """The file of a lock as its holder left it."""
    path.write_text("" if holder is None else json.dumps(asdict(holder)))
    then = time.time() - age
    os.utime(path, (then, then))


def elsewhere() -> Holder:
    """A process of another machine."""
    return replace(Holder.this_process(), machine="another boot pid:[1]", host="node7")


# --- syncing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", CANNOT_SYNC)
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, error):
    fsync = os.fsync

    def of_files(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            failing(error)()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    write_atomically(tmp_path / "f", b"data")
    assert (tmp_path / "f").read_bytes() == b"data"
    run(helpers.good_clips(tmp_path / "clips", 2), tmp_path / "out")
    assert len(package.FeatureStore(tmp_path / "out")) == 2


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS"])
def test_a_file_system_that_cannot_sync_at_all(tmp_path, monkeypatch, error):
    monkeypatch.setattr(os, "fsync", failing(error))
    write_atomically(tmp_path / "f", b"data")
    assert (tmp_path / "f").read_bytes() == b"data"


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT", "EBADF"])
def test_data_that_does_not_reach_the_disk_is_an_error(tmp_path, monkeypatch, error):
    monkeypatch.setattr(os, "fsync", failing(error))
    with pytest.raises(OSError, match=os.strerror(getattr(errno, error))):
        write_atomically(tmp_path / "f", b"data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_folder_whose_sync_fails_is_an_error(tmp_path, monkeypatch, error):
    def of_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            failing(error)()

    monkeypatch.setattr(os, "fsync", of_folders)
    with pytest.raises(OSError, match=os.strerror(getattr(errno, error))):
        write_atomically(tmp_path / "f", b"data")


# --- the directory's lock, with and without locks of the system ----------------------------------------------------


@pytest.fixture(params=["locks", "none", "of folders only"])
def file_system(request, monkeypatch):
    flock = fcntl.flock

    def of_folders(file: int, how: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"):
            failing("ENOSYS")()
        flock(file, how)

    if request.param != "locks":
        monkeypatch.setattr(fcntl, "flock", failing("ENOLCK") if request.param == "none" else of_folders)


def test_one_run_at_a_time_or_one_for_each_part(tmp_path, file_system):
    out = tmp_path / "out"
    with OutputDir(out, Part(2, 1)):
        with pytest.raises(OutputError, match="another run is writing part 1/2 here"):
            OutputDir(out, Part(2, 1))
        with OutputDir(out, Part(2, 2)), pytest.raises(OutputError, match="another run is writing here"):
            OutputDir(out)
    with OutputDir(out):
        for part in (WHOLE, Part(2, 1)):
            with pytest.raises(OutputError, match="another run is writing"):
                OutputDir(out, part)
    assert list(out.iterdir()) == []


def test_machines_that_lock_files_but_not_folders_together(tmp_path, monkeypatch):
    """As most network file systems: the lock of a folder stays on one machine."""
    flock = fcntl.flock

    def of_files(file: int, how: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"):
            flock(file, how)

    monkeypatch.setattr(fcntl, "flock", of_files)
    test_one_run_at_a_time_or_one_for_each_part(tmp_path, None)


@pytest.mark.parametrize("error", NO_LOCKS)
def test_a_run_without_locks_warns_once_and_leaves_the_same(tmp_path, monkeypatch, caplog, error):
    clips = helpers.good_clips(tmp_path / "clips", 4)
    run(clips, tmp_path / "want", "output.shard_size=2")
    monkeypatch.setattr(fcntl, "flock", failing(error))
    before = list(caplog.messages)
    with caplog.at_level(logging.WARNING, "hlfeat"):
        run(clips, tmp_path / "out", "output.shard_size=2")
    more = caplog.messages[len(before) :]
    locks = [m for m in more if "has no locks" in m]
    assert len(locks) == 1
    assert "hlfeat.lock with a heartbeat" in locks[0]
    assert [m for m in more if m not in locks] == before
    assert contents(tmp_path / "out") == contents(tmp_path / "want")


@pytest.mark.parametrize("error", ["EIO", "EACCES"])
def test_other_errors_of_locking_are_errors(tmp_path, monkeypatch, error):
    monkeypatch.setattr(fcntl, "flock", failing(error))
    with pytest.raises(OutputError):
        OutputDir(tmp_path / "out")


def test_a_heartbeat_counts_for_a_machine_with_locks_too(tmp_path):
    for held, wanted in ((WHOLE, WHOLE), (WHOLE, Part(2, 1)), (Part(2, 1), WHOLE), (Part(2, 1), Part(2, 1))):
        path = Layout(tmp_path, held).lock
        leave(path, elsewhere(), age=20)
        with pytest.raises(OutputError, match=r"process \d+ on node7.* was touched 2\d s ago"):
            OutputDir(tmp_path, wanted)
        leave(path, elsewhere(), age=1000)
        OutputDir(tmp_path, wanted).close()
        assert list(tmp_path.iterdir()) == []


def test_what_killed_runs_left_is_removed(tmp_path, file_system):
    dead = a_dead_process()
    for owner in (WHOLE, Part(2, 1)):
        for run_of in (WHOLE, Part(2, 1)):
            leave(Layout(tmp_path, owner).lock, dead)
            leave(Layout(tmp_path, owner).claim("ab" * 16), replace(dead, token="cd" * 16))
            OutputDir(tmp_path, run_of).close()
            assert list(tmp_path.iterdir()) == []


# --- the heartbeat -------------------------------------------------------------------------------------------------


def test_names_of_claims():
    for part in (WHOLE, Part(4, 2)):
        claim = Layout(Path(), part).claim("0f" * 16)
        assert Layout.parse(claim.name) == FileName("lock", part, None, temporary=True)
    assert Layout.parse("hlfeat.busy." + "0f" * 16) is None


def test_who_holds_a_lock(tmp_path):
    path = tmp_path / "hlfeat.lock"
    free = [(a_dead_process(), 0), (elsewhere(), 301), (None, 301)]
    free += [(replace(Holder.this_process(), started="1"), 0)]  # another process has its number now
    held = [(Holder.this_process(), 0), (Holder.this_process(), 10_000), (elsewhere(), 200), (None, 200)]
    held += [(elsewhere(), -3600)]  # a clock that was set back
    for holder, age in free:
        leave(path, holder, age)
        lock = LockFile.read(path)
        assert lock is not None
        lock.check_free()
    for holder, age in held:
        leave(path, holder, age)
        lock = LockFile.read(path)
        assert lock is not None
        with pytest.raises(HeldError) as e:
            lock.check_free()
        running = holder is not None and holder.machine == Holder.this_process().machine
        assert ("if it was killed, try again in" in str(e.value)) == (not running)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"token": "../../x"}', "[" * 4000])
def test_files_that_are_not_complete_are_held_for_a_while(tmp_path, text):
    of = Layout(tmp_path)
    of.lock.write_text(text)
    with pytest.raises(HeldError):
        HeartbeatLock(of)
    leave(of.lock, None, age=400)
    HeartbeatLock(of).release()
    assert list(tmp_path.iterdir()) == []


def test_the_heart_beats_until_the_lock_is_given_up(tmp_path):
    of = Layout(tmp_path)
    lock = HeartbeatLock(of, beat=0.01)
    os.utime(of.lock, (0, 0))
    deadline = time.monotonic() + 20
    while of.lock.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.release()
    assert not lock._thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_taken_over_ends_the_run(tmp_path, no_locks):
    """Its process was suspended for minutes, say; another run is at work, whose lock stays."""
    with OutputDir(tmp_path) as output:
        output.check_place()
        leave(output.layout.lock, elsewhere())
        with pytest.raises(OutputError, match="taken over by another run"):
            output.check_place()
    assert output.layout.lock.exists()
    output.layout.lock.unlink()


def test_of_many_that_take_over_one_wins(tmp_path):
    dead = a_dead_process()
    of = Layout(tmp_path)
    for _ in range(20):
        leave(of.lock, dead)
        winners, begin = [], threading.Barrier(8)

        def take(begin: threading.Barrier = begin, winners: list[HeartbeatLock] = winners) -> None:
            begin.wait()
            with suppress(HeldError):
                winners.append(HeartbeatLock(of))

        takers = [threading.Thread(target=take) for _ in range(8)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        assert len(winners) == 1
        assert [p.name for p in tmp_path.iterdir()] == [of.lock.name]
        winners[0].release()


class Schedule:
    """Lets one thread at a time do one operation on the file system, in an order drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.dice, self.change = random.Random(seed), threading.Condition()
        self.threads: list[threading.Thread] = []  # that have not ended
        self.waiting: list[threading.Thread] = []
        self.chosen: threading.Thread | None = None

    def turn(self) -> None:
        """Wait for the next turn."""
        me = threading.current_thread()
        if me not in self.threads:
            return
        with self.change:
            self.waiting.append(me)
            self.change.notify_all()
            assert self.change.wait_for(lambda: self.chosen is me, 60)
            self.waiting.remove(me)
            self.chosen = None

    def run(self, *bodies: Callable[[], None]) -> None:
        def ending(body: Callable[[], None]) -> None:
            try:
                body()
            finally:
                with self.change:
                    self.threads.remove(threading.current_thread())
                    self.change.notify_all()

        threads = [threading.Thread(target=ending, args=(body,)) for body in bodies]
        self.threads = list(threads)
        for thread in threads:
            thread.start()
        with self.change:
            while self.threads:
                self.change.wait_for(lambda: self.chosen is None and len(self.waiting) == len(self.threads))
                if self.waiting:
                    self.chosen = self.dice.choice(self.waiting)
                    self.change.notify_all()


def operations(schedule: Schedule, patch: pytest.MonkeyPatch) -> None:
    """Every operation of a HeartbeatLock on the file system waits for its turn."""

    def in_turn(call: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            schedule.turn()
            return call(*args, **kwargs)

        return wrapper

    read = LockFile.read.__func__  # type: ignore[attr-defined]
    patch.setattr(LockFile, "read", classmethod(in_turn(read)))
    patch.setattr(HeartbeatLock, "_make", in_turn(HeartbeatLock._make))
    for name in ("replace", "unlink"):
        patch.setattr(Path, name, in_turn(getattr(Path, name)))


@pytest.mark.parametrize("seed", range(40))
def test_in_any_order_of_operations_one_at_most_holds_it(tmp_path, seed):
    """Three runs, each twice, from the lock of a killed run; some die instead of giving up their lock."""
    of, schedule, dead, holders, most = Layout(tmp_path), Schedule(seed), a_dead_process(), [], []
    leave(of.lock, dead)
    dice = random.Random(seed)
    dies = [[dice.random() < 0.3 for _ in range(2)] for _ in range(3)]

    def taker(fates: list[bool]) -> None:
        for fate in fates:
            try:
                lock = HeartbeatLock(of, beat=1000)
            except HeldError:
                continue
            holders.append(lock)
            most.append(len(holders))
            for _ in range(3):
                schedule.turn()
            holders.remove(lock)
            if fate:  # as SIGKILL leaves it
                lock._stop.set()
                leave(of.lock, replace(dead, token=lock._holder.token))
            else:
                lock.release()

    with pytest.MonkeyPatch.context() as patch:
        operations(schedule, patch)
        schedule.run(*(partial(taker, fates) for fates in dies))
    assert most
    assert max(most) == 1
    OutputDir(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


# --- processes that are killed -------------------------------------------------------------------------------------

KILLED_AT = """
import os, signal, sys
from pathlib import Path
from hlfeat.storage import heartbeat
from hlfeat.storage.layout import Layout

left = int(sys.argv[2])

def kill(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.utime") and sys.argv[1] in str(arguments[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
heartbeat.HeartbeatLock(Layout(Path(sys.argv[1]))).release()
"""


def killed_at(of: Layout, moment: int) -> bool:
    """Whether a process was killed before its operation of this number, or had none and ended."""
    ended = subprocess.run([sys.executable, "-c", KILLED_AT, of.folder, str(moment)], check=False)
    assert ended.returncode in (0, -signal.SIGKILL)
    for path in of.folder.iterdir():
        if path.stat().st_size == 0:  # killed before it wrote who it is: then the lock is free minutes later
            os.utime(path, (0, 0))
    return ended.returncode != 0


@pytest.mark.parametrize("second", [4, 7, 9, 11])
def test_a_run_killed_at_any_moment_leaves_a_lock_that_is_taken_over(tmp_path, second):
    """The run that takes it over is killed too."""
    folder, of, first = tmp_path / "out", Layout(tmp_path / "out"), 0
    folder.mkdir()
    left = set[str]()
    while True:
        leave(of.lock, a_dead_process())
        if not killed_at(of, first):
            break
        left.add(" ".join(sorted(path.name.partition(".lock")[2][:1] or "lock" for path in folder.iterdir())))
        killed_at(of, second)
        lock = HeartbeatLock(of)
        assert LockFile.read(of.lock).token == lock._holder.token
        lock.release()
        OutputDir(folder).close()
        assert list(folder.iterdir()) == []
        first += 1
    assert first > 8
    assert left == {"lock", ". lock"}  # with a claim, too


def test_the_command_without_locks_killed_and_run_again(tmp_path):
    """The errors come from the system's calls of the process, as they would where there are no locks."""
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl, os, stat\n"
        "def flock(*_): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))\n"
        "def fsync(file, fsync=os.fsync):\n"
        "    if stat.S_ISDIR(os.fstat(file).st_mode): raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))\n"
        "    fsync(file)\n"
        "fcntl.flock, os.fsync = flock, fsync\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    clips = helpers.good_clips(tmp_path / "clips", 12)
    out = tmp_path / "out"
    arguments = [command(), "extract", clips, "-o", out, "-c", "leaf", "--shard-size", "1", "--workers", "1"]
    settings = {"env": {**os.environ, "PYTHONPATH": path}, "text": True, "stdout": subprocess.PIPE}
    first = subprocess.Popen(arguments, stderr=subprocess.PIPE, **settings)
    assert first.stdout is not None
    first.stdout.readline()  # a shard is done
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run(arguments, stderr=subprocess.PIPE, check=False, **settings)
    assert first.poll() is None, "it was to be at work still"
    first.kill()
    _, warned = first.communicate()
    assert warned.count("has no locks (No locks available)") == 1
    assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    assert f"{out}: another run is writing here (process {first.pid} on " in second.stderr
    assert (out / "hlfeat.lock").exists()
    third = subprocess.run(arguments, stderr=subprocess.PIPE, check=False, **settings)
    assert third.returncode == 0, third.stderr
    assert not (out / "hlfeat.lock").exists()
    assert len(package.FeatureStore(out)) == 12


@pytest.mark.parametrize("part", [WHOLE, Part(2, 1)])
def test_a_process_that_is_forked_meanwhile_does_not_keep_the_lock(tmp_path, part):
    """Another run of the same Python process forks its workers while this one has the lock."""
    with OutputDir(tmp_path, part):
        pid = os.fork()
        if pid == 0:
            time.sleep(100)
            os._exit(0)
    try:
        OutputDir(tmp_path, WHOLE).close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
