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
    """

    times: int = 5
    first: float = 0.25
    longest: float = 20.0
    stopped: Callable[[], bool] = lambda: False

    def call(self, request: Callable[[], T], name: str) -> T:
        """What the request returns. `name` is the URL, for the log.

        Raises RemoteError where it fails for good. Its message has no secrets of the URL; what it was made of may have
        them, and is not attached.
        """
        for n in range(self.times + 1):
            try:
                return request()
            except LocalError as e:
                raise e.error from e
            except Exception as e:
                error = explain(e)
                error.args = (without_secrets(str(error), name),)
            if error.code != "unreachable" or n == self.times or self.stopped():
                raise error
            wait = max(min(self.longest, self.first * 2**n) * random.uniform(0.5, 1.0), min(self.longest, error.after))
            log.debug("%s: %s; trying again in %.1f s", escape_unprintable(shown_url(name)), error, wait)
            self._wait(wait)
        raise AssertionError("unreachable")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stopped() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))
