"""Seconds of each stage of a run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Measures stages that may nest: time in an inner stage does not count for the outer one. For one thread.

    >>> clock = Clock()
    >>> with clock("write"):
    ...     with clock("compute"):
    ...         pass
    >>> sorted(clock.seconds)
    ['compute', 'write']
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stages: list[str] = []  # open ones, the innermost last
        self._since = 0.0  # when the innermost one was entered, or returned to

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time inside towards the stage. Must not be open while a generator is suspended."""
        self._charge()
        self._stages.append(stage)
        try:
            yield
        finally:
            self._charge()
            self._stages.pop()

    def _charge(self) -> None:
        """Count the time since the last change towards the innermost stage."""
        now = time.perf_counter()
        if self._stages:
            self.seconds[self._stages[-1]] += now - self._since
        self._since = now

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what other threads measured."""
        for stage, spent in seconds.items():
            self.seconds[stage] += spent

    def timed(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The same items, with the time that each takes to come counted towards the stage."""
        source = iter(items)
        while True:
            with self(stage):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item
