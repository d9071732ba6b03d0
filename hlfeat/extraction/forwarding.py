"""What a run in another process says to the one that shows it, and how that one shows it.

A message is a kind and a value: ("shard", path), ("resume", clips), ("progress", (clips, seconds, part)), and
("log", record) as `run_log.Show` has it.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from hlfeat.extraction.progress import Progress
from hlfeat.extraction.run import Hooks
from hlfeat.extraction.run_log import ForwardedLog, ForwardingHandler

Send = Callable[[str, Any], None]

log = logging.getLogger("hlfeat")


class ForwardedProgress(Progress):
    """Progress that somebody else shows.

    Args:
        send: is told of it.
    """

    def __init__(self, send: Send, total: int, done: int, quiet: bool) -> None:
        super().__init__(total, done, quiet=True)
        self._send = send
        send("resume", done)

    def resume(self, clips: int) -> None:
        super().resume(clips)
        self._send("resume", clips)

    def show(self, clips: int, seconds: float, part: float) -> None:
        self._send("progress", (clips, seconds, part))


def forwarding_hooks(send: Send, stopped: Callable[[], bool]) -> Hooks:
    """Hooks of a run that somebody else shows."""
    return Hooks(stopped, partial(send, "shard"), partial(ForwardedProgress, send))


@contextmanager
def forwarded_log(send: Send, level: int, formatter: logging.Formatter | None) -> Iterator[None]:
    """The lines of the log go to somebody else.

    Args:
        level: from which on.
        formatter: makes the lines that forks of this process print.
    """
    handlers, level_before = log.handlers[:], log.level
    log.handlers[:] = [ForwardingHandler(lambda *record: send("log", record), formatter)]
    log.setLevel(level)
    try:
        yield
    finally:
        log.handlers[:] = handlers
        log.setLevel(level_before)


def sendable_formatter() -> logging.Formatter | None:
    """What makes the lines of the log, if another process can have it."""
    formatter = log.handlers[0].formatter if log.handlers else None
    try:
        pickle.dumps(formatter)
    except Exception:
        return None
    return formatter


class Listener:
    """Shows what other processes say.

    Args:
        hooks: of the run.
        progress: of all of them.
    """

    def __init__(self, hooks: Hooks, progress: Progress) -> None:
        self._hooks, self._progress, self._log = hooks, progress, ForwardedLog(log)

    def take(self, source: str, kind: str, value: Any) -> None:
        """Show a message of `source`, which lines of the log name."""
        if kind == "shard":
            self._hooks.finished_shard(value)
        elif kind == "resume":
            self._progress.resume(value)
        elif kind == "progress":
            self._progress.add(*value)
        elif kind == "log":
            self._log.show(source, *value)
