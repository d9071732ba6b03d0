"""A function mapped over items in a pool of threads, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

X = TypeVar("X")
Y = TypeVar("Y")


class Threads:
    """Applies a function to items in a pool of threads, a few ahead of whoever takes the results, in order."""

    def __init__(self, pool: ThreadPoolExecutor, ahead: int) -> None:
        self.pool, self.ahead = pool, ahead

    def __call__(self, apply: Callable[[X], Y], items: Iterable[X]) -> Iterator[Y]:
        waiting: deque[Future[Y]] = deque()
        try:
            for item in items:
                waiting.append(self.pool.submit(inference, apply, item))
                if len(waiting) > self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def inference(apply: Callable[[X], Y], x: X) -> Y:
    """The function without gradients, in whatever thread this is."""
    with torch.inference_mode():
        return apply(x)
