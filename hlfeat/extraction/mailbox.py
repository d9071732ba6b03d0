"""How workers on other machines tell the process that has sent them how far they are, and hear when to stop.

The mailbox is an object on the sender's machine, whose methods everybody calls. It needs no torch, so that it is there
within moments.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

DELIVERY_INTERVAL = 0.2  # seconds between deliveries


class Message(NamedTuple):
    """What a worker says.

    Attributes:
        part: which it does, from 1.
        attempt: a random name: when a worker has died, another one begins the part anew.
        node: the name of the worker's machine.
        kind, value: of forwarding.py; the first message of each attempt is "attempt".
    """

    part: int
    attempt: str
    node: str
    kind: str
    value: Any


class Mailbox:
    """Keeps messages until they are taken."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._stopped = False

    def post(self, messages: Sequence[Message]) -> bool:
        """Deliver messages, in order. Returns whether their sender is to stop."""
        self._messages.extend(messages)
        return self._stopped

    def take(self) -> list[Message]:
        """What was delivered since the last time."""
        taken, self._messages = self._messages, []
        return taken

    def stop(self) -> None:
        """Tell everybody to stop."""
        self._stopped = True


class Outbox:
    """The worker's end: `send` returns at once, and a thread delivers. As a context, it delivers all at its end.

    Args:
        post: as `Mailbox.post`, which may raise anything: the same is delivered again later.
        part: that the worker does.
        node: the name of its machine.

    Attributes:
        stopped: whether the worker is to stop.
    """

    def __init__(self, post: Callable[[Sequence[Message]], bool], part: int, node: str) -> None:
        self.stopped = False
        self._post, self._part, self._node, self._attempt = post, part, node, uuid4().hex
        self._waiting: list[Message] = []
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_delivering, name="outbox", daemon=True)

    def send(self, kind: str, value: Any) -> None:
        """Say something, from any thread."""
        with self._lock:
            self._waiting.append(Message(self._part, self._attempt, self._node, kind, value))

    def __enter__(self) -> Outbox:
        self.send("attempt", None)
        with suppress(Exception):
            self._deliver()  # so that a worker that begins late hears at once that it is to stop
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        with suppress(Exception):  # the mailbox's machine is gone, and with it whoever would read this
            self._deliver()

    def _keep_delivering(self) -> None:
        while not self._closed.wait(DELIVERY_INTERVAL):
            with suppress(Exception):
                self._deliver()

    def _deliver(self) -> None:
        with self._lock:
            messages = self._waiting[:]
        self.stopped |= self._post(messages)
        with self._lock:
            del self._waiting[: len(messages)]
