"""A WorkerPool of processes.

Processes have an interpreter each, so they use any number of cores. And a decoder that crashes ends a process that can
be replaced. What was sent to a process that ended is tried once more, clip by clip, while no other process works: then
it is known which clip it was, and a clip for which the memory sufficed after all is done.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError, OutputError
from hlfeat.extraction.channel import CancelledError, Channel, ChannelClosedError
from hlfeat.extraction.events import ClipInfo, FailedClip, WorkerEvent
from hlfeat.extraction.fork_server import ForkServer
from hlfeat.extraction.worker_pool import Asked, ThreadPool, Worker, WorkerPool
from hlfeat.extraction.worker_process import work
from hlfeat.text import count

log = logging.getLogger("hlfeat")

_QUEUE = 2  # chunks that a process has at once: one that it works on, and the next
_READ_AHEAD = 2  # blocks of a long clip
_FILES = 1024  # of which it is remembered what reads them


def make_pool(worker: Worker, workers: int) -> WorkerPool:
    """Processes where they can be forked safely."""
    return ProcessPool(worker, workers) if sys.platform == "linux" else ThreadPool(worker, workers)


class _DiedError(Exception):
    """A process ended while it worked."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def as_clip_error(self) -> ClipError:
        """What it says of the clip that the process worked on."""
        number = os.waitstatus_to_exitcode(self.status)
        if number == -signal.SIGKILL:
            return ClipError("out-of-memory", "the system ended the process that worked on it (SIGKILL)")
        how = f"status {number}" if number >= 0 else signal.Signals(-number).name
        return ClipError("crashed", f"the decoder crashed ({how})")


class _Process:
    """A process and its channels.

    Attributes:
        free: channels that no thread uses.
        status: how it ended; None while it has not, so far as is known.
        peak_bytes: memory that it has added to what it shares, at the highest.
    """

    def __init__(self, pid: int, connections: list[socket.socket]) -> None:
        self.pid, self.channels = pid, [Channel(connection) for connection in connections]
        self.free = list(self.channels)
        self.status: int | None = None
        self.peak_bytes = 0

    @property
    def calls(self) -> int:
        """How many threads use it."""
        return len(self.channels) - len(self.free)

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


class ProcessPool:
    """Each call is done by a process, which is started when it is first needed; a WorkerPool.

    Make it before there are other threads and before a GPU is used: its processes have everything as it is then.

    Args:
        worker: what the processes do.
        workers: the number of processes.

    Attributes:
        peak_bytes: memory that the processes have added to what they share, at the highest.
    """

    def __init__(self, worker: Worker, workers: int) -> None:
        self.workers, self.threads = workers, _QUEUE * workers
        self.peak_bytes = 0
        self._server = ForkServer(partial(work, worker))
        self._processes: list[_Process] = []
        self._changed = threading.Condition()
        self._homes: OrderedDict[str, _Process | None] = OrderedDict()  # of files with segments; None: any process
        self._calls = 0  # that are being done
        self._alone: int | None = None  # the thread whose calls are done while no other is

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        for process in self._processes:
            process.close()

    def start_thread(self) -> None:
        pass

    def in_worker(self, clips: list[Clip], cancelled: Asked) -> list[WorkerEvent]:
        """What the worker makes of the clips; those whose process ends fail."""
        try:
            return self._work_on(clips, cancelled)
        except _DiedError:
            pass
        except CancelledError:
            return [_cancelled(clip) for clip in clips]
        with self._quiet():
            return [self._retry(clip, cancelled) for clip in clips]

    def _retry(self, clip: Clip, cancelled: Asked) -> WorkerEvent:
        try:
            return self._work_on([clip], cancelled)[0]
        except _DiedError as e:
            return FailedClip(clip, e.as_clip_error())
        except CancelledError:
            return _cancelled(clip)

    def _work_on(self, clips: list[Clip], cancelled: Asked) -> list[WorkerEvent]:
        file = clips[0].path if clips[0].is_segment else None
        events, shares_pass = self._call(("in_worker", clips), cancelled, file)
        if file is not None and not shares_pass:
            with self._changed:
                self._homes[file] = None
                self._changed.notify_all()
        return events  # type: ignore[no-any-return]

    def apply(self, step: str, *arguments: Any) -> Any:
        """Raises ClipError if the process ends twice."""
        request = ("apply", (step, *arguments))
        with suppress(_DiedError):
            return self._call(request, lambda: False)
        with self._quiet():
            try:
                return self._call(request, lambda: False)
            except _DiedError as e:
                raise e.as_clip_error() from e

    def read(self, info: ClipInfo, channel: int, cancelled: Asked) -> Generator[Tensor, None, None]:
        """A process of its own reads the clip, some blocks ahead. If it ends, another one begins anew, once."""
        done = 0
        for last_try in (False, True):
            process = _Process(*self._server.fork(1))
            (connection,) = process.channels
            try:
                connection.send(("read", (info, channel)))
                for _ in range(_READ_AHEAD - 1):
                    connection.send(None)
                position = 0
                while True:
                    connection.send(None)
                    kind, value = connection.receive(cancelled)
                    if kind == "end":
                        return
                    if kind == "error":
                        raise value
                    position += 1
                    if position > done:
                        done = position
                        yield value
            except ChannelClosedError:
                error = _DiedError(self._server.kill(process.pid))
                process.status = error.status
                if last_try:
                    raise error.as_clip_error() from error
            except CancelledError:
                raise _cancelled(info.clip).error from None
            finally:
                if process.status is None:
                    self._server.kill(process.pid)
                process.close()

    def _call(self, request: object, cancelled: Asked, file: str | None = None) -> Any:
        """What a process answers. Raises what it raises, _DiedError if it ends, and CancelledError."""
        process, channel = self._take(file, cancelled)
        try:
            channel.send(request)
            kind, value, peak = channel.receive(cancelled)
        except ChannelClosedError:
            self._end(process)
            assert process.status is not None
            raise _DiedError(process.status) from None
        except BaseException:  # an answer may still come: nobody must take it for another one's
            self._end(process)
            raise
        finally:
            self._give_back(process, channel)
        if kind == "error":
            raise value
        with self._changed:
            process.peak_bytes = peak
            self.peak_bytes = max(self.peak_bytes, sum(process.peak_bytes for process in self._processes))
        return value

    def _take(self, file: str | None, cancelled: Asked) -> tuple[_Process, Channel]:
        """A process with a free channel: the one that has read this file before, or the one with the least to do."""
        with self._changed:
            while True:
                process = self._choose(file) if self._alone in (None, threading.get_ident()) else None
                if process is not None:
                    break
                if cancelled():
                    raise CancelledError
                self._changed.wait(1.0)
            self._calls += 1
            if file is not None and self._homes.get(file, process) is not None:
                self._homes[file] = process
                self._homes.move_to_end(file)
                if len(self._homes) > _FILES:
                    self._homes.popitem(last=False)
            return process, process.free.pop()

    def _choose(self, file: str | None) -> _Process | None:
        """The process for the next call; None: it has to wait."""
        home = None if file is None else self._homes.get(file)
        if home is not None and home in self._processes:
            return home if home.free else None
        least = min(self._processes, key=lambda process: process.calls, default=None)
        if (least is None or least.calls) and len(self._processes) < self.workers:
            try:
                least = _Process(*self._server.fork(_QUEUE))
                self._processes.append(least)
            except OutputError as e:
                if least is None:
                    raise
                self.workers = len(self._processes)
                log.warning("going on with %s: %s", count(self.workers, "worker"), e)
        return least if least is not None and least.free else None

    def _give_back(self, process: _Process, channel: Channel) -> None:
        with self._changed:
            process.free.append(channel)
            if process.status is not None and not process.calls:
                process.close()
            self._calls -= 1
            self._changed.notify_all()

    def _end(self, process: _Process) -> None:
        """End a process, unless it has ended by itself, and learn how."""
        with self._changed:
            if process.status is None:
                process.status = self._server.kill(process.pid)
                self._processes.remove(process)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Wait until nothing is being done; until the end of the context only this thread's calls are."""
        with self._changed:
            self._changed.wait_for(lambda: self._alone is None)
            self._alone = threading.get_ident()
            self._changed.wait_for(lambda: not self._calls)
        try:
            yield
        finally:
            with self._changed:
                self._alone = None
                self._changed.notify_all()


def _cancelled(clip: Clip) -> FailedClip:
    return FailedClip(clip, ClipError("cancelled", "the run was stopped"))
