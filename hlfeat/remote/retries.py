"""What is tried again, how often, and after how long a wait: exponential, with jitter, so that many runs spread."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hlfeat.text import escape_unprintable

T = TypeVar("T")
log = logging.getLogger("hlfeat")


class RemoteError(Exception):
    """An object that cannot be read or written.

    Attributes:
        code: "missing" (404), "unreadable" (403, and what trying again does not help), or "unreachable" (a connection
            that stays broken, a service that stays busy).
        conflict: whether the object is there already or has changed, where the request was made for another state.
    """

    def __init__(self, code: str, message: str, conflict: bool = False) -> None:
        super().__init__(message)
        self.code, self.conflict = code, conflict


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
        """What the request returns. `name` is for the log.

        Raises RemoteError where it fails for good.
        """
        for n in range(self.times + 1):
            try:
                return request()
            except Exception as e:
                error = explain(e)
                if error.code != "unreachable" or n == self.times or self.stopped():
                    raise error from e
                wait = min(self.longest, self.first * 2**n) * random.uniform(0.5, 1.0)
                log.debug("%s: %s; trying again in %.1f s", escape_unprintable(name), error, wait)
                self._wait(wait)
        raise AssertionError("unreachable")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stopped() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 509})  # status of answers that another try may not get


def explain(e: Exception) -> RemoteError:
    """What an exception of fsspec and its file systems means. Raises the exception itself where it is a bug."""
    if isinstance(e, RemoteError):
        return e
    chain: list[BaseException] = []
    error: BaseException | None = e
    while error is not None and len(chain) < 8:
        chain.append(error)
        error = error.__cause__ or error.__context__
    status = next((s for s in map(_status, chain) if s is not None), None)
    text = " ".join(str(e).split())[:200] or type(e).__name__
    if status in (409, 412):
        return RemoteError("unreadable", text, conflict=True)
    if isinstance(e, FileNotFoundError) or status == 404:
        return RemoteError("missing", "no such object")
    if isinstance(e, PermissionError) or status in (401, 403) or "Credentials" in type(e).__name__:
        return RemoteError("unreadable", f"access is denied: {text}")
    if status is not None and status not in BUSY:
        return RemoteError("unreadable", text)
    module = type(e).__module__.partition(".")[0]
    foreign = module not in ("builtins", "hlfeat", "torch", "numpy")
    if status in BUSY or isinstance(e, OSError | EOFError) or foreign:
        return RemoteError("unreachable", text)
    raise e


def _status(e: BaseException) -> int | None:
    """The status of the answer that an exception is about: aiohttp's, botocore's, httpx's and requests'."""
    for source in (e, getattr(e, "response", None)):
        for name in ("status", "status_code"):
            if isinstance(status := getattr(source, name, None), int):
                return status
    response = getattr(e, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    return None
