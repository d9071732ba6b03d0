"""Waits for what fsspec's thread does, and gives it up when the run is to stop: a server may be silent for a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, TypeVar

from hlfeat.remote.errors import RemoteError

T = TypeVar("T")
_POLL = 0.2  # seconds between looks at whether to stop


def result_of(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], stopped: Callable[[], bool]) -> T:
    """What a coroutine returns, or raises, that runs in a loop of another thread. Raises RemoteError where it stops."""
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        while not futures.wait([future], _POLL).done:
            if stopped():
                raise RemoteError("unreachable", "the run was stopped")
        return future.result()
    finally:
        future.cancel()
