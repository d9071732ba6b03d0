"""What is tried again, how often, and after how long a wait: exponential, with jitter, so that many runs spread."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hlfeat.remote.errors import LocalError, RemoteError, explain
from hlfeat.remote.urls import shown_url, without_secrets
from hlfeat.text import escape_unprintable

__all__ = ["RemoteError", "Retries", "explain"]

T = TypeVar("T")
log = logging.getLogger("hlfeat")


@dataclass(frozen=True)
class Retries:
    """How often a request is made again whose connection broke, or whose service was busy.

    Args:
        times: after the first try.
        first: seconds until the second try; each wait is up to twice as long as the one before, at random.
        longest: seconds of a wait.
        stopped: asked before and while it waits; when true, it gives up.
        grace: seconds from the first try in which it does not give up although it is stopped: for what is to be
            finished, and not lost because the service was busy for a moment.
    """

    times: int = 5
    first: float = 0.25
    longest: float = 20.0
    stopped: Callable[[], bool] = lambda: False
    grace: float = 0.0

    def call(self, request: Callable[[], T], name: str) -> T:
        """What the request returns. `name` is the URL, for the log.

        Raises RemoteError where it fails for good. Its message has no secrets of the URL; what it was made of may have
        them, and is not attached.
        """
        stays = time.monotonic() + self.grace
        for n in range(self.times + 1):
            try:
                return request()
            except LocalError as e:
                raise e.error from e
            except Exception as e:
                error = explain(e)
                error.args = (without_secrets(str(error), name),)
            if error.code != "unreachable" or n == self.times or self._gives_up(stays):
                raise error
            wait = max(self._wait_after(n), min(self.longest, error.after))
            log.debug("%s: %s; trying again in %.1f s", escape_unprintable(shown_url(name)), error, wait)
            self._wait(wait, stays)
        raise AssertionError("unreachable")

    def pause(self, n: int) -> None:
        """Wait before something is done again that has been done n + 1 times."""
        self._wait(self._wait_after(n), time.monotonic() + self.grace)

    def _wait_after(self, n: int) -> float:
        return min(self.longest, self.first * 2.0**n) * random.uniform(0.5, 1.0)

    def _wait(self, seconds: float, stays: float) -> None:
        until = time.monotonic() + seconds
        while not self._gives_up(stays) and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _gives_up(self, stays: float) -> bool:
        """Whether it was stopped, and has not been staying on only until then (`time.monotonic`)."""
        return time.monotonic() >= stays and self.stopped()
