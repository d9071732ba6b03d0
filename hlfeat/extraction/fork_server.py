"""A process that forks others when it is asked to.

It is forked from the process of a run before that starts threads and uses a GPU, and has all modules loaded. So a
process that it forks works within milliseconds, at any time of the run, and shares their memory. It ends, and what it
has forked with it, as soon as the process of the run does, however that ends.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import struct
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from hlfeat.errors import OutputError
from hlfeat.extraction.stop_signals import STOPS

_ANSWER = struct.Struct("<q")  # the id of a process that was forked, or the status of one that has ended
_MOST_CONNECTIONS = 8  # of one process

Run = Callable[[list[socket.socket]], None]


class ForkServer:
    """The process that forks; for any number of threads.

    Args:
        run: what a forked process does with its connections. It has all objects of the process that makes the server,
            as they are then.
    """

    def __init__(self, run: Run) -> None:
        self._lock = threading.Lock()
        self._server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = _fork(lambda: self._serve(theirs, run))
        theirs.close()

    def fork(self, connections: int) -> tuple[int, list[socket.socket]]:
        """Start a process. Returns its id, and this end of each of its connections.

        Raises OutputError where the system gives no more processes.
        """
        pairs = [socket.socketpair() for _ in range(connections)]
        pid = self._ask(b"fork", [theirs for _, theirs in pairs])
        for _, theirs in pairs:
            theirs.close()
        if pid < 0:
            for ours, _ in pairs:
                ours.close()
            raise OutputError(f"the system gives no more processes: {os.strerror(-pid)}")
        return pid, [ours for ours, _ in pairs]

    def kill(self, pid: int) -> int:
        """End a process that `fork` started, if it has not ended. Returns its exit status, as `os.waitpid` does."""
        return self._ask(b"kill" + _ANSWER.pack(pid), [])

    def close(self) -> None:
        """End the server and all its processes."""
        self._server.close()
        with suppress(ChildProcessError):  # where somebody else in this process waits for all its children
            os.waitpid(self._pid, 0)

    def _ask(self, message: bytes, connections: Sequence[socket.socket]) -> int:
        answer = b""
        with self._lock, suppress(BrokenPipeError, ConnectionResetError):
            if self._server.fileno() >= 0:  # it has not been closed by another thread
                socket.send_fds(self._server, [message], [c.fileno() for c in connections])
                answer = self._server.recv(_ANSWER.size)
        if not answer:
            raise OutputError("the process that starts workers died; what is finished is kept: run the same again")
        return int(_ANSWER.unpack(answer)[0])

    def _serve(self, client: socket.socket, run: Run) -> None:
        """What the server does."""
        self._server.close()
        gc.freeze()  # looking through objects would copy the memory that they are in
        processes: set[int] = set()
        while True:
            message, descriptors, _, _ = socket.recv_fds(client, 64, _MOST_CONNECTIONS)
            if not message:
                break
            if descriptors:
                connections = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                answer = self._start(client, connections, run)
                if answer > 0:
                    processes.add(answer)
            else:
                (pid,) = _ANSWER.unpack(message[4:])
                answer = _end(pid)
                processes.discard(pid)
            client.send(_ANSWER.pack(answer))
        for pid in processes:
            _end(pid)

    @staticmethod
    def _start(client: socket.socket, connections: list[socket.socket], run: Run) -> int:
        def work() -> None:
            client.close()
            run(connections)

        try:
            pid = _fork(work)
        except OSError as e:
            pid = -(e.errno or 1)
        for connection in connections:
            connection.close()
        return pid


def _end(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)  # without effect where it has ended
    return os.waitpid(pid, 0)[1]


def _fork(call: Callable[[], None]) -> int:
    """Start a process that makes the call and ends. Returns its id."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until the new process ignores them
    try:
        with warnings.catch_warnings():  # of Python 3.12, about threads: what runs in the new process takes no lock
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _end_after(call, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _end_after(call: Callable[[], None], mask: set[int | signal.Signals]) -> NoReturn:
    """Make the call and end this process, which has just been forked: nothing of its parent's must run here."""
    try:
        signal.set_wakeup_fd(-1)
        for stop in STOPS:  # for the process of the run to answer
            signal.signal(stop, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        faulthandler.disable()  # a crash is reported by who has started the process
        call()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
