"""Shows how far a run is: a bar on a terminal, a line now and then elsewhere, nothing if the run is quiet."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

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
