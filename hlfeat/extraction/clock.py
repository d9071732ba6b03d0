"""Where the time of a run goes: a clock whose stages may nest."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
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
        self._contexts: dict[str, _Stage] = {}

    def __call__(self, stage: str) -> _Stage:
        """A context: the time inside counts towards the stage. Must not be open while a generator is suspended."""
        context = self._contexts.get(stage)
        if context is None:
            context = self._contexts[stage] = _Stage(self, stage)
        return context

    def begin(self, stage: str) -> None:
        """Count from now on towards this stage."""
        self._charge()
        self._stages.append(stage)

    def end(self) -> None:
        """Count from now on towards the stage in which the innermost one began."""
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
            self.begin(stage)
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self.end()
            yield item


class _Stage:
    """A stage of a clock as a context, which has no state of its own. A class, as @contextmanager takes three times
    as long, twice for each clip."""

    def __init__(self, clock: Clock, stage: str) -> None:
        self._clock, self._stage = clock, stage

    def __enter__(self) -> None:
        self._clock.begin(self._stage)

    def __exit__(self, *_: object) -> None:
        self._clock.end()
