"""A function mapped over items in a pool of threads, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

X = TypeVar("X")
Y = TypeVar("Y")


class ThreadMap:
    """Maps functions over items in a pool of threads, without gradients.

    Args:
        pool: of the threads.
        ahead: how many items may be begun before the first of their results is taken.
    """

    def __init__(self, pool: ThreadPoolExecutor, ahead: int) -> None:
        self.pool, self.ahead = pool, ahead

    def __call__(self, apply: Callable[[X], Y], items: Iterable[X]) -> Iterator[Y]:
        """The function of each item, in the order of the items."""
        pending: deque[Future[Y]] = deque()
        try:
            for item in items:
                pending.append(self.pool.submit(_without_gradients, apply, item))
                if len(pending) > self.ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _without_gradients(apply: Callable[[X], Y], x: X) -> Y:
    with torch.inference_mode():  # a thread does not inherit the mode of another
        return apply(x)
