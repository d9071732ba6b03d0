"""Clips read ahead of the writer by threads, in input order and in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol, TypeVar

import torch

from hlfeat.audio.clip import Clip
from hlfeat.extraction.events import WorkerEvent
from hlfeat.extraction.options import Limits

X = TypeVar("X")
Y = TypeVar("Y")

_BYTES_A_SECOND = 32000  # of a segment: 16 bits at 16 kHz, the size that counts towards a chunk


class Worker(Protocol):
    """What the threads do; an Engine is one."""

    def start_worker(self) -> None:
        """Called in each thread first."""

    def in_worker(self, clips: list[Clip], cancelled: Callable[[], bool]) -> list[WorkerEvent]:
        """Work on a chunk of clips: an event for each, in order. `cancelled` becomes true when it should end early."""


def chunks_of_clips(clips: Iterable[Clip], limits: Limits) -> Iterator[list[Clip]]:
    """Neighbouring clips that a thread takes at once: several where the files are small, as each turn has its cost."""
    chunk: list[Clip] = []
    size = 0
    for clip in clips:
        chunk.append(clip)
        size += _estimated_bytes(clip, limits.chunk_bytes)
        if size >= limits.chunk_bytes or len(chunk) >= limits.chunk_clips:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _estimated_bytes(clip: Clip, most: int) -> int:
    if clip.span is not None:
        return clip.span.size
    if clip.start is not None or clip.end is not None:
        return most if clip.end is None else int((clip.end - (clip.start or 0)) * _BYTES_A_SECOND)
    with suppress(OSError, ValueError):  # reading the file will say what is wrong
        return os.stat(clip.path).st_size
    return 0


class Prefetcher:
    """Does the work on clips in threads, ahead of the iteration over its results, which come in order.

    A new chunk of clips is begun while fewer than two for each thread are being worked on and less than
    `limits.look_ahead_bytes` wait. Threads begin new chunks themselves as they finish, so that they stay busy whatever
    the consumer does.

    Args:
        clips: in order.
        workers: number of threads. libsndfile and torch release the interpreter's lock, so threads are enough.
        worker: what they do.
        stopped: becomes true when the run should stop; work that has begun is then cancelled.

    Attributes:
        threads: maps other functions over the same threads.
    """

    def __init__(
        self,
        clips: Iterable[Clip],
        workers: int,
        worker: Worker,
        limits: Limits,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._limits, self._workers, self._worker, self._stopped = limits, workers, worker, stopped
        self._upcoming = chunks_of_clips(clips, limits)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="clips", initializer=worker.start_worker)
        self.threads = ThreadMap(self._pool, workers + 1)
        self._lock = threading.RLock()
        self._queue: deque[Future[list[WorkerEvent]]] = deque()
        self._in_work = self._waiting_bytes = 0
        self._closed = False

    def __enter__(self) -> Prefetcher:
        self._begin_more()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[WorkerEvent]:
        while self._queue:
            for event in self._queue.popleft().result():
                if event.nbytes:
                    self._begin_more(-event.nbytes)
                yield event
            self._begin_more()

    def _begin_more(self, waiting_bytes: int = 0, finished: int = 0) -> None:
        with self._lock:
            self._waiting_bytes += waiting_bytes
            self._in_work -= finished
            while (
                not self._closed
                and self._in_work < 2 * self._workers
                and self._waiting_bytes < self._limits.look_ahead_bytes
            ):
                chunk = next(self._upcoming, None)
                if chunk is None:
                    return
                self._in_work += 1
                self._queue.append(self._pool.submit(self._work, chunk))

    def _cancelled(self) -> bool:
        return self._closed or self._stopped()

    def _work(self, chunk: list[Clip]) -> list[WorkerEvent]:
        # The next chunk is begun before this one is returned: whoever has the result may rely on it.
        events: list[WorkerEvent] = []
        try:
            events = self._worker.in_worker(chunk, self._cancelled)
        finally:
            self._begin_more(sum(event.nbytes for event in events), finished=1)
        return events


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
