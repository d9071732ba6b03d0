"""The lock of an output in a bucket: an object that says who holds it, and that the holder writes anew now and then.

It is made with If-None-Match and renewed with If-Match, so that one run makes it, and a holder learns when it has lost
it. A holder counts as dead if it is a process of this machine that does not exist any more, or if the object has not
been written for minutes, by the clock of the server. Its lease is taken over with If-Match: one run wins.

A run that was suspended may wake up when its lease is another's. It asks before it writes anything: a lease counts for
two beats only after the server has confirmed it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timezone

from hlfeat.errors import OutputError
from hlfeat.remote.retries import RemoteError
from hlfeat.remote.s3_writes import S3Prefix, Stored
from hlfeat.storage.heartbeat import HeldError, Holder
from hlfeat.storage.layout import Layout

BEAT = 15.0  # seconds between two renewals
STALE = 120.0  # seconds after which a lease that nobody renews is nobody's: more than two beats and one request
_TAKEN_AWAY = b""
_ATTEMPTS = 100  # each ends because another run was faster


class Lease:
    """The lease of a run, or of one of its parts; a thread renews it until `release`.

    Args:
        prefix: where the object is.
        layout: names it.
        beat, stale: seconds between renewals, and from the last one until the lease is nobody's.

    Raises:
        HeldError: another run holds it.
        OutputError: the server does not obey conditions, so that no run can hold it.
        RemoteError: it cannot be written.
    """

    def __init__(self, prefix: S3Prefix, layout: Layout, beat: float = BEAT, stale: float = STALE) -> None:
        self._prefix, self._name, self._beat, self._stale = prefix, layout.lock.name, beat, stale
        self._holder, self._mutex, self._lost = Holder.this_process(), threading.Lock(), False
        self._tag, self._confirmed = "", 0.0
        self._acquire()
        try:
            self._check_conditions()
        except BaseException:
            with suppress(RemoteError):
                prefix.delete(self._name)
            raise
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_always, name="lease", daemon=True)
        self._thread.start()

    def _acquire(self) -> None:
        for _ in range(_ATTEMPTS):
            before = self._prefix.get(self._name)
            if before is None:  # if the answer is that there is nothing, there is no bucket
                with _losing_a_race(missing=False):
                    self._write(None)
                    return
            else:
                self._check_free(self._name, before)
                with _losing_a_race():
                    self._write(before.tag)
                    return
        raise HeldError

    def _write(self, tag: str | None) -> None:
        """Write the lease in place of what has this tag."""
        now = _clock()
        renewed = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        self._tag = self._prefix.put(self._name, json.dumps({**asdict(self._holder), "renewed": renewed}).encode(), tag)
        self._confirmed = now

    def _check_conditions(self) -> None:
        """Raises OutputError where the server writes an object although its condition does not hold."""
        for header, tag in (("If-None-Match", None), ("If-Match", '"0"')):
            with _losing_a_race():
                self._prefix.put(self._name, _TAKEN_AWAY, tag)
                raise OutputError(
                    f"{self._prefix.url}: the server does not obey {header}, so that two runs could write at once: "
                    "choose a folder or another server"
                )

    def _check_free(self, name: str, lease: Stored) -> None:
        """Raises HeldError unless its holder has died, was told so, or has not renewed it for long.

        The latter of processes of this machine too: one may live that had no network when its run gave up the lease.
        """
        holder = _holder_of(lease.data)
        runs = holder and holder.runs()
        if lease.data == _TAKEN_AWAY or runs is False or lease.age >= self._stale:
            return
        who = "" if holder is None else f"process {holder.pid} on {holder.host}, "
        left = f"{self._stale - lease.age:.0f} s"
        wait = f"; if that run has ended, try again in {left}" if runs else f"; if it was killed, try again in {left}"
        raise HeldError(f" ({who}{name} was renewed {lease.age:.0f} s ago){wait}")

    def exclude(self, layouts: Iterable[Layout]) -> None:
        """Raise HeldError if a run is at work that this one excludes; remove the leases of those that are dead.

        Each has its own lease before it looks at the others', so at most one of them goes on.
        """
        for name in (layout.lock.name for layout in layouts):
            for _ in range(_ATTEMPTS):
                lease = self._prefix.get(name)
                if lease is None:
                    break
                self._check_free(name, lease)
                with _losing_a_race():
                    self._prefix.put(name, _TAKEN_AWAY, lease.tag)  # if it is suspended, its holder learns of it
                    self._prefix.delete(name)
                    break

    def _renew_always(self) -> None:
        while not self._stop.wait(self._beat):
            with suppress(RemoteError):  # a network that is away for a moment
                self._renew()

    def _renew(self) -> None:
        with self._mutex:
            if self._lost:
                return
            try:
                self._write_anew()
            except RemoteError as e:
                self._lost = e.conflict or e.code == "missing"
                raise

    def _write_anew(self) -> None:
        """Write it in place of what this run knows; or of what it has written in vain, as far as it knows.

        All answers to a renewal may be lost, when the network goes away while the server is doing it.
        """
        try:
            self._write(self._tag)
        except RemoteError as e:
            now = self._prefix.get(self._name) if e.conflict else None
            holder = None if now is None else _holder_of(now.data)
            if now is None or holder is None or holder.token != self._holder.token:
                raise
            self._write(now.tag)

    def check_place(self) -> None:
        """Raises OutputError if the lease is not this run's any more, or nobody knows whether it is."""
        if _clock() - self._confirmed > 2 * self._beat:
            try:
                self._renew()
            except RemoteError as e:
                if not self._lost:
                    raise OutputError(
                        f"{self._prefix.url}/{self._name}: cannot be renewed: {e}; what is finished is kept: run the "
                        "same command again"
                    ) from e
        if self._lost:
            raise OutputError(
                f"{self._prefix.url}/{self._name}: was removed, or taken over by another run, while this one was "
                "at work; run the same again when no other run is at work"
            )

    def release(self) -> None:
        """Remove the object."""
        self._stop.set()
        self._thread.join()
        with suppress(OutputError, RemoteError):
            self._prefix.asking(self.check_place).delete(self._name)


@contextmanager
def _losing_a_race(missing: bool = True) -> Iterator[None]:
    """Leaves the block where another run has been faster: the object is another one now, or is `missing`."""
    try:
        yield
    except RemoteError as e:
        if not (e.conflict or (missing and e.code == "missing")):
            raise


def _holder_of(data: bytes) -> Holder | None:
    """None where it is no lease."""
    try:
        record = json.loads(data)
        del record["renewed"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Holder.parse(json.dumps(record).encode())


def _clock() -> float:
    """Seconds that pass while the machine sleeps too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
