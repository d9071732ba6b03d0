"""How far a run is, and where its time goes: Progress is shown while it works, Clock fills its report."""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

log = logging.getLogger("hlfeat")

LINE_EVERY = 30.0  # seconds


class Progress:
    """Counts clips and the hours of audio in them, on standard error.

    Args:
        total: clips of the run; done: of these, finished before it began.
        quiet: show nothing.
    """

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        self.total, self.clips, self.seconds = total, done, 0.0
        self.started = self.last_line = time.monotonic()
        self.lines = not quiet and not sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=done, unit="clip", disable=quiet or self.lines, dynamic_ncols=True, file=sys.stderr
        )

    def add(self, clips: int, seconds: float) -> None:
        """Count clips that are finished, and the seconds of audio in them."""
        self.clips += clips
        self.seconds += seconds
        elapsed = max(time.monotonic() - self.started, 1e-9)
        speed = f"{self.seconds / 3600:.2f} h, {self.seconds / elapsed / 3600:.4f} h/s"
        self.bar.set_postfix_str(speed, refresh=False)
        self.bar.update(clips)
        if self.lines and time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            log.info("%d of %d clips, %s", self.clips, self.total, speed)

    def close(self) -> None:
        """Restore the terminal."""
        self.bar.close()


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
