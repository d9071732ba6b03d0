"""Calls that threads share: what several want at the same time is fetched once."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import wraps
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def shared(function: Callable[P, T]) -> Callable[P, T]:
    """The same function; threads that call it with the same arguments while it is at work get that result, or error.

    A process that was forked meanwhile waits for none of them: no lock is held.
    """
    at_work: dict[Hashable, Future[T]] = {}

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        key, mine = (os.getpid(), args, tuple(kwargs.items())), Future[T]()
        first = at_work.setdefault(key, mine)
        if first is not mine:
            return first.result()
        try:
            result = function(*args, **kwargs)
        except BaseException as e:
            mine.set_exception(e)
            raise
        else:
            mine.set_result(result)
            return result
        finally:
            del at_work[key]

    return call
