"""Several devices of one machine: a process for each, each with a part of the clips."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from hlfeat.errors import HlfeatError, InterruptedRunError, OutputError
from hlfeat.extraction.forwarding import Listener, forwarded_log, forwarding_hooks, sendable_formatter
from hlfeat.extraction.options import Options
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Hooks
from hlfeat.extraction.run_report import attach_report
from hlfeat.extraction.stop_signals import STOPS, when_stopped

T = TypeVar("T")
Task = Callable[[Options, Hooks], T]

log = logging.getLogger("hlfeat")

POLL = 0.2  # seconds between looks at whether the run is to stop


class _Parent:
    """The process that shows what this one does; for any number of threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, kind: str, value: Any) -> None:
        with self._lock:
            self._connection.send((kind, value))


def run_on_devices(clips: int, task: Task[T], options: Options, hooks: Hooks) -> list[T]:
    """A process for each device, which does its share of `options.part` of the clips.

    Args:
        clips: how many there are, in all parts.
        task: what a process does; it is pickled.

    Returns the results of the task, in the order of the clips.

    Raises what the first process raised that failed, after all have ended: the others do not stop for it.
    """
    children: list[_Child[T]] = []
    progress = hooks.progress(len(range(clips)[options.part.slice(clips)]), 0, options.quiet)
    terminated = finished = False
    errors: list[Exception] = []
    try:
        listener = Listener(hooks, progress)
        for device, part in zip(options.devices, options.part.split(len(options.devices)), strict=True):
            children.append(_Child(task, replace(options, device=device, part=part)))
        running = {child.connection: child for child in children}
        while running:
            if hooks.stopped() and not terminated:
                terminated = True
                for child in running.values():
                    child.process.terminate()
            for connection in wait(list(running), POLL):
                child = running[connection]
                if child.receive(listener):
                    del running[connection]
                    if child.error is not None:
                        errors.append(child.error)
        finished = True
    finally:
        progress.close()
        for child in children:
            if not (terminated or finished):
                child.process.terminate()
            child.process.join()
    errors.sort(key=lambda error: isinstance(error, InterruptedRunError))  # another error says more
    if errors:
        attach_report(errors[0], [report for child in children if (report := child.report) is not None])
        raise errors[0]
    return [child.result for child in children]


class _Child(Generic[T]):
    """A process that does the task, and what it has sent.

    Attributes:
        result, error: what it has returned or raised.
    """

    result: T
    error: Exception | None = None

    def __init__(self, task: Task[T], options: Options) -> None:
        processes = multiprocessing.get_context("spawn")
        self._name = f"part {options.part} on {options.device}"
        self.connection: Any
        self.connection, theirs = processes.Pipe(duplex=False)
        arguments = (theirs, task, options, log.level, sendable_formatter())
        self._device = options.device
        self.process = processes.Process(target=_child, args=arguments, name=options.device)
        with _signals_blocked():
            self.process.start()
        theirs.close()

    @property
    def report(self) -> Mapping[str, Any] | None:
        """What the process has done; None where it died, or has not begun."""
        if self.error is not None:
            return getattr(self.error, "report", None)
        result = getattr(self, "result", None)
        return result.as_dict() if isinstance(result, Report) else None

    def receive(self, listener: Listener) -> bool:
        """Take one message. Returns whether it is the last."""
        try:
            kind, value = self.connection.recv()
        except EOFError:
            kind, value = "failed", OutputError(f"{self._name} died; what is finished is kept: run the same again")
        if kind == "done":
            self.result = value
        elif kind == "failed":
            self.error = value
        else:
            listener.take(self._device, kind, value)
        return kind in ("done", "failed")


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started here gets signals to stop once it asks for them, and not while it still imports torch."""
    resource_tracker.ensure_running()  # or starting it would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(
    connection: Connection,
    task: Task[Any],
    options: Options,
    level: int,
    formatter: logging.Formatter | None = None,
) -> None:
    """The process of one device: does the task, and sends its parent what becomes of it."""
    signals = []
    when_stopped(lambda *_: signals.append(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    parent = _Parent(connection)
    hooks = forwarding_hooks(parent.send, stopped=lambda: bool(signals))
    # if the parent was killed, finished shards stay, and nobody listens
    with suppress(BrokenPipeError), forwarded_log(parent.send, level, formatter):
        try:
            parent.send("done", task(options, hooks))
        except HlfeatError as e:
            parent.send("failed", e)
        except Exception as e:
            log.debug("", exc_info=True)
            parent.send("failed", RuntimeError(f"{options.device}: {type(e).__name__}: {e}"))
