"""How far a run is, and where its time goes: Progress is shown while it works, Clock fills its report."""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

log = logging.getLogger("hlfeat")

SHOW_EVERY, LINE_EVERY = 0.1, 30.0  # seconds, of the bar and of lines in a log


class Progress:
    """Counts clips and the hours of audio in them, on standard error.

    Args:
        total: clips of the run; done: of these, finished before it began.
        quiet: show nothing.

    Attributes:
        clips: that are finished, with those of before.
        seconds: of audio in those of this run.
    """

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        self.total, self.clips, self.seconds = total, done, 0.0
        self._shown_clips, self._shown_seconds, self._next_show = done, 0.0, 0.0
        self.started = self.last_line = time.monotonic()
        self.lines = not quiet and not sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=done, unit="clip", disable=quiet or self.lines, dynamic_ncols=True, file=sys.stderr
        )

    def add(self, clips: int, seconds: float) -> None:
        """Count clips that are finished, and the seconds of audio in them."""
        self.clips += clips
        self.seconds += seconds
        now = time.monotonic()
        if now >= self._next_show:
            self._next_show = now + SHOW_EVERY
            self._show_new()

    def _show_new(self) -> None:
        clips, seconds = self.clips - self._shown_clips, self.seconds - self._shown_seconds
        if clips or seconds:
            self._shown_clips, self._shown_seconds = self.clips, self.seconds
            self.show(clips, seconds)

    def show(self, clips: int, seconds: float) -> None:
        """Show what has been counted. The arguments are what is new since the last time."""
        now = time.monotonic()
        elapsed = max(now - self.started, 1e-9)
        speed = f"{self.seconds / 3600:.2f} h, {self.seconds / elapsed / 3600:.4f} h/s"
        self.bar.set_postfix_str(speed, refresh=False)
        self.bar.update(clips)
        if self.lines and now - self.last_line >= LINE_EVERY:
            self.last_line = now
            log.info("%d of %d clips, %s", self.clips, self.total, speed)

    def close(self) -> None:
        """Show what is left, and restore the terminal."""
        self._show_new()
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
