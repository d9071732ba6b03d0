"""A lock for file systems that have none: a file that says who holds it, and that the holder touches now and then.

The file is made with O_EXCL, so that one run makes it. If its holder has died, one of those who want it takes it over:

1. The token of a holder is random and is never used again. A claim is a file whose name has the dead holder's token,
   made with O_EXCL: one run makes it. Who makes it is the holder now.
2. The claim is renamed over the lock. A run that dies before that leaves a claim that can be claimed in turn: the
   holder is the end of that chain.
3. Somebody who is late may make the claim again after it was renamed. The chain does not lead there any more, so this
   claim counts for nothing, and its maker removes it and looks again.

A holder is dead if it is a process of this machine that does not exist any more, or if the file has not been touched
for minutes. How old the file is is measured with the clock of the file system: those of two machines may differ.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from hlfeat.storage.layout import Layout

BEAT = 15.0  # seconds between two touches
STALE = 300.0  # seconds after which a lock that nobody touches is nobody's: NFS shows an old time for up to a minute
_ATTEMPTS = 100  # each ends because another run was faster


class HeldError(Exception):
    """Another run holds the lock; the text says which, if that is known."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        token: of this lock alone.
        host: the machine's name, for people.
        machine: its boot and the namespace of its process numbers; "" where the system does not tell.
        pid: the process.
        started: when the process began, in the machine's ticks; another process may get its number.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def this_process(cls) -> Holder:
        """With a new token."""
        return cls(uuid4().hex, socket.gethostname(), _this_machine(), os.getpid(), _start_of(os.getpid()) or "")

    @classmethod
    def parse(cls, data: bytes) -> Holder | None:
        """None where the file is not complete (yet)."""
        try:
            holder = cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None
        return holder if re.fullmatch("[0-9a-f]{32}", str(holder.token)) and isinstance(holder.pid, int) else None

    def runs(self) -> bool | None:
        """Whether the process exists; None where this machine cannot say."""
        if not self.machine or self.machine != _this_machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # somebody else's, but there is one
        started = _start_of(self.pid)
        return None if started is None else started == self.started


@dataclass(frozen=True, slots=True)
class LockFile:
    """What a lock's file says.

    Attributes:
        path: of the file.
        holder: None where the file is not complete: its holder is about to write it, or died before.
        touched: when, by the clock of the file system.
    """

    path: Path
    holder: Holder | None
    touched: float

    @classmethod
    def read(cls, path: Path) -> LockFile | None:
        """None where there is no file."""
        try:
            with open(path, "rb") as f:
                return cls.read_open(path, f.fileno())
        except FileNotFoundError:
            return None

    @classmethod
    def read_open(cls, path: Path, descriptor: int) -> LockFile:
        """Of a file that is open."""
        return cls(path, Holder.parse(os.pread(descriptor, 4096, 0)), os.fstat(descriptor).st_mtime)

    @property
    def token(self) -> str:
        """The holder's; of a file that is not complete, its time, as the next one is made minutes later."""
        return f"{round(self.touched * 1e6):032x}"[-32:] if self.holder is None else self.holder.token

    def check_free(self, stale: float = STALE) -> None:
        """Raises HeldError unless the holder has died."""
        runs = self.holder and self.holder.runs()
        age = max(0.0, _now(self.path.parent) - self.touched)
        if runs or (runs is None and age < stale):
            raise HeldError(self._describe(age, None if runs else stale))

    def _describe(self, age: float, stale: float | None) -> str:
        who = "" if self.holder is None else f"process {self.holder.pid} on {self.holder.host}, "
        wait = "" if stale is None else f"; if it was killed, try again in {stale - age:.0f} s"
        return f" ({who}{self.path.name} was touched {age:.0f} s ago){wait}"


def current_lock(layout: Layout) -> LockFile | None:
    """The end of the chain of claims; None where there is no lock."""
    file = LockFile.read(layout.lock)
    while file is not None and (claim := LockFile.read(layout.claim(file.token))) is not None:
        file = claim
    return file


class HeartbeatLock:
    """The lock of a run, or of one of its parts; a thread touches its file until `release`.

    Args:
        layout: names the file.
        beat, stale: seconds between touches, and from the last one until the lock is nobody's.

    Raises:
        HeldError: another run holds the lock.
    """

    def __init__(self, layout: Layout, beat: float = BEAT, stale: float = STALE) -> None:
        self.layout = layout
        self._holder = Holder.this_process()
        self._acquire(stale)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._touch, args=(beat,), name="heartbeat", daemon=True)
        self._thread.start()

    def _acquire(self, stale: float) -> None:
        for _ in range(_ATTEMPTS):
            before = current_lock(self.layout)
            if before is None:
                if self._make(self.layout.lock):
                    return
                continue
            before.check_free(stale)
            claim = self.layout.claim(before.token)
            if not self._make(claim):
                continue
            if self.is_held():
                with suppress(FileNotFoundError):  # a run that has all parts to itself removes claims to one
                    claim.replace(self.layout.lock)
                    return
            claim.unlink(missing_ok=True)
        raise HeldError

    def _make(self, path: Path) -> bool:
        """Whether this run has made the file."""
        try:
            with open(path, "xb") as f:
                f.write(json.dumps(asdict(self._holder)).encode())
        except FileExistsError:
            return False
        return True

    def is_held(self) -> bool:
        """Whether the lock is this run's, and was not removed or taken over while the process was suspended."""
        file = current_lock(self.layout)
        return file is not None and file.token == self._holder.token

    def _touch(self, beat: float) -> None:
        while not self._stop.wait(beat):
            with suppress(OSError):  # a network that is away for a moment
                if self.is_held():
                    os.utime(self.layout.lock)

    def release(self) -> None:
        """Remove the file."""
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            if self.is_held():
                self.layout.lock.unlink()


def _now(folder: Path) -> float:
    """The time by the clock of the file system."""
    with TemporaryFile(dir=folder) as f:
        return os.fstat(f.fileno()).st_mtime


def _this_machine() -> str:
    """Containers share a kernel and may share a name, but number their processes on their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process began, in ticks since the boot; "" if it has ended; None where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *fields = stat[stat.rindex(b")") + 1 :].split()
    return "" if state in (b"Z", b"X") else fields[18].decode()
