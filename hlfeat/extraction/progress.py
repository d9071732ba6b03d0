"""How far a run is: clips and hours of audio, their speed, and the time that is left, on standard error."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from tqdm import tqdm

from hlfeat.extraction.run_log import facts, write_event
from hlfeat.text import duration

log = logging.getLogger("hlfeat")

SHOW_EVERY, LINE_EVERY = 0.1, 30.0  # seconds, of the bar and of lines
MODES = ("auto", "bar", "lines", "json", "none")


class Progress:
    """Counts clips and the audio in them.

    Args:
        total: clips of the run; done: of these, finished before it began.
        quiet: show nothing.
        mode: a bar; a line of the log, or an event in JSON, every so often, whether or not a clip was finished; none;
            or "auto": a bar on a terminal, lines elsewhere.
        every: seconds between lines, or events; default: LINE_EVERY.

    Attributes:
        clips: that are finished, with those of before.
        seconds: of audio that has gone through in this run, with those of clips that are not finished yet.
    """

    def __init__(self, total: int, done: int, quiet: bool, mode: str = "auto", every: float | None = None) -> None:
        self.total, self.clips, self.seconds = total, done, 0.0
        self._done = done
        self._part = 0.0  # of the clips that are being worked on, in clips
        self._new = (0, 0.0, 0.0)  # clips, seconds and parts that were not shown yet
        self._next_show, self.started = 0.0, time.monotonic()
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "lines"
        self._mode = "none" if quiet else mode
        self.bar = tqdm(
            total=total, initial=done, unit="clip", disable=self._mode != "bar", dynamic_ncols=True, file=sys.stderr
        )
        self._closed = threading.Event()
        self._lines: threading.Thread | None = None
        if self._mode in ("lines", "json"):
            self._lines = threading.Thread(
                target=self._keep_reporting, args=(every or LINE_EVERY,), name="progress", daemon=True
            )
            self._lines.start()

    def resume(self, clips: int) -> None:
        """Count clips that were finished before the run began."""
        self.clips += clips
        self._done += clips
        if not self.bar.disable:
            self.bar.initial += clips
            self.bar.update(clips)

    def add(self, clips: int, seconds: float, part: float = 0.0) -> None:
        """Count clips that are finished, and audio that has gone through.

        Args:
            seconds: of audio, those of unfinished clips too, once.
            part: by how much more of the unfinished clips has gone through, in clips: 0.5 for half of one. What was
                counted of a clip is taken back when it is finished.
        """
        self.clips += clips
        self.seconds += seconds
        self._part += part
        new_clips, new_seconds, new_part = self._new
        self._new = (new_clips + clips, new_seconds + seconds, new_part + part)
        now = time.monotonic()
        if now >= self._next_show:
            self._next_show = now + SHOW_EVERY
            self._show_new()

    def _show_new(self) -> None:
        if any(self._new):
            new, self._new = self._new, (0, 0.0, 0.0)
            self.show(*new)

    def show(self, clips: int, seconds: float, part: float) -> None:
        """Show what has been counted. The arguments are what is new since the last time, as of `add`."""
        if self._mode == "bar":
            figures = self.figures()
            self.bar.set_postfix_str(
                f"{figures['hours']:.2f} h, {figures['real_time_factor']:.0f} times real time", refresh=False
            )
            self.bar.update(clips)
            self.bar.refresh()

    def figures(self) -> dict[str, Any]:
        """Where the run is. The time left is estimated by clips, an unfinished one by its part; None before that."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        done = self.clips - self._done + self._part
        left = elapsed / done * (self.total - self.clips - self._part) if done > 0 else None
        return {
            "clips": self.clips,
            "clips_total": self.total,
            "hours": self.seconds / 3600,
            "real_time_factor": self.seconds / elapsed,
            "seconds_left": None if left is None else max(0.0, left),
        }

    def report(self) -> None:
        """Show a line, or an event, of where the run is."""
        figures = self.figures()
        if self._mode == "json":
            write_event("progress", figures)
            return
        left = figures["seconds_left"]
        log.info(
            "%d of %d clips, %.2f h of audio, %.0f times real time%s",
            figures["clips"],
            figures["clips_total"],
            figures["hours"],
            figures["real_time_factor"],
            "" if left is None else f", {duration(left)} left",
            extra=facts(event="progress", **figures),
        )

    def _keep_reporting(self, every: float) -> None:
        while not self._closed.wait(every):
            self.report()

    def close(self) -> None:
        """Show what is left, and restore the terminal."""
        self._show_new()
        self.bar.close()
        self._closed.set()
        if self._lines is not None:
            self._lines.join()
