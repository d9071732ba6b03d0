"""Clips read ahead of the writer by threads, in input order and in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from hlfeat.audio.clip import Clip
from hlfeat.extraction.clip_loader import Failure, Item

LOOK_AHEAD_BYTES = 128 << 20  # decoded audio and features that may wait, beyond what the threads are at
CHUNK_BYTES, CHUNK_CLIPS = 1 << 19, 32  # short files that a thread takes at once, a few seconds of work


Work = Callable[[list[Clip], Callable[[], bool]], list[Item | Failure]]


def chunks_of_clips(clips: Iterable[Clip]) -> Iterator[list[Clip]]:
    """Neighbouring clips that a thread takes at once: a few where the files are small, as each turn has its cost."""
    bundle: list[Clip] = []
    size = 0
    for clip in clips:
        bundle.append(clip)
        if clip.span is not None:
            size += clip.span.size
        elif clip.start is not None or clip.end is not None:
            size += CHUNK_BYTES if clip.end is None else int((clip.end - (clip.start or 0)) * 32000)
        else:
            with suppress(OSError, ValueError):  # reading it will say what is wrong
                size += os.stat(clip.path).st_size
        if size >= CHUNK_BYTES or len(bundle) >= CHUNK_CLIPS:
            yield bundle
            bundle, size = [], 0
    if bundle:
        yield bundle


class Prefetcher:
    """Does the work on clips in threads, ahead of the iteration over its results, which come in order.

    A new bundle of clips is begun while fewer than two a thread are being worked on and less than LOOK_AHEAD_BYTES
    wait. Threads begin new ones themselves as they finish, so that they stay busy whatever the consumer does.

    Args:
        clips: in order.
        workers: threads. libsndfile and torch release the interpreter's lock, so threads are enough.
        work: called with some clips, and a function that becomes true when it should stop early.
        start: called in each thread first.
    """

    def __init__(
        self, clips: Iterable[Clip], workers: int, work: Work, start: Callable[[], None] = lambda: None
    ) -> None:
        self.upcoming = chunks_of_clips(clips)
        self.workers = workers
        self.work = work
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="clips", initializer=start)
        self.lock = threading.RLock()
        self.queue: deque[Future[list[Item | Failure]]] = deque()
        self.busy = self.waiting_bytes = 0
        self.over = False

    def __enter__(self) -> Prefetcher:
        self._begin_more()
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.over = True
        self.pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Item | Failure]:
        while self.queue:
            for item in self.queue.popleft().result():
                if isinstance(item, Item):
                    self._begin_more(-item.nbytes)
                yield item
            self._begin_more()

    def _begin_more(self, waiting_bytes: int = 0, finished: int = 0) -> None:
        with self.lock:
            self.waiting_bytes += waiting_bytes
            self.busy -= finished
            while not self.over and self.busy < 2 * self.workers and self.waiting_bytes < LOOK_AHEAD_BYTES:
                bundle = next(self.upcoming, None)
                if bundle is None:
                    return
                self.busy += 1
                self.queue.append(self.pool.submit(self._do, bundle))

    def _do(self, bundle: list[Clip]) -> list[Item | Failure]:
        # Counts before it returns: whoever has the result may rely on the next bundle having been begun.
        done: list[Item | Failure] = []
        try:
            done = self.work(bundle, lambda: self.over)
        finally:
            self._begin_more(sum(item.nbytes for item in done if isinstance(item, Item)), finished=1)
        return done
