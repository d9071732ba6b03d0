"""Clips worked on ahead of the writer, in input order and in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Copy
from hlfeat.extraction.events import FailedClip, LoadedClip, WorkerEvent
from hlfeat.extraction.fetch_ahead import FetchAhead, FetchedClip, Fetcher
from hlfeat.extraction.options import Limits
from hlfeat.extraction.streaming import Step
from hlfeat.extraction.worker_pool import WorkerPool
from hlfeat.remote.urls import is_url

X = TypeVar("X")
Y = TypeVar("Y")

_MOST_COPIES = 4  # of fetched clips, that a worker takes at once
_BYTES_A_SECOND = 32000  # of a segment: 16 bits at 16 kHz, the size that counts towards a chunk


def chunks_of_clips(clips: Iterable[FetchedClip], limits: Limits) -> Iterator[list[FetchedClip]]:
    """Neighbouring clips that a worker takes at once: several where the files are small, as each turn has its cost."""
    chunk: list[FetchedClip] = []
    size = 0
    for fetched in clips:
        chunk.append(fetched)
        size += _estimated_bytes(fetched.clip, limits.chunk_bytes)
        if size >= limits.chunk_bytes or len(chunk) >= limits.chunk_clips:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _estimated_bytes(clip: Clip, most: int) -> int:
    if clip.row is not None:  # each copy is an open file
        return max(clip.row.mean_size, most // _MOST_COPIES)
    if is_url(clip.path) and not clip.is_segment:
        size = clip.span.size if clip.span is not None else clip.listed[0] if clip.listed is not None else 0
        return max(size, most // _MOST_COPIES)
    if clip.span is not None:
        return clip.span.size
    if clip.start is not None or clip.end is not None:
        return most if clip.end is None else int((clip.end - (clip.start or 0)) * _BYTES_A_SECOND)
    with suppress(OSError, ValueError):  # reading the file will say what is wrong
        return os.stat(clip.path).st_size
    return 0


class Prefetcher:
    """Has a pool work on clips, ahead of the iteration over its results, which come in order.

    A new chunk of clips is begun while fewer than two for each worker are being worked on and less than
    `limits.look_ahead_bytes` wait, with the copies of long clips. A thread waits for each chunk, and begins a new one
    as it is finished, so that the pool stays busy whatever the consumer does.

    Args:
        clips: in order.
        pool: of the workers.
        stopped: becomes true when the run should stop; work that has begun is then cancelled.
        fetchers: bring the bytes of clips that do not lie in files of this machine.

    Attributes:
        map: maps other functions over the same pool.
    """

    def __init__(
        self,
        clips: Iterable[Clip],
        pool: WorkerPool,
        limits: Limits,
        stopped: Callable[[], bool] = lambda: False,
        fetchers: Sequence[Fetcher] = (),
    ) -> None:
        self._limits, self._pool, self._stopped = limits, pool, stopped
        self._fetched = FetchAhead(clips, fetchers, limits.fetches, limits.look_ahead_bytes, self._cancelled)
        self._upcoming = chunks_of_clips(self._fetched, limits)
        self._threads = ThreadPoolExecutor(pool.threads, thread_name_prefix="clips", initializer=pool.start_thread)
        self.map = PoolMap(self._threads, pool)
        self._lock = threading.RLock()
        self._queue: deque[Future[list[WorkerEvent]]] = deque()
        self._in_work, self._waiting = 0, _Waiting()
        self._closed = False

    def __enter__(self) -> Prefetcher:
        self._begin_more()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
        with self._fetched:
            self._fetched.stop()  # first, as the threads wait for what is fetched
            self._threads.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[WorkerEvent]:
        while self._queue:
            for event in self._queue.popleft().result():
                with self._lock:
                    if self._waiting.remove(event):
                        self._begin_more()
                yield event
            self._begin_more()

    def _begin_more(self) -> None:
        with self._lock:
            while (
                not self._closed
                and self._in_work < 2 * self._pool.workers
                and self._waiting.bytes < self._limits.look_ahead_bytes
            ):
                chunk = next(self._upcoming, None)
                if chunk is None:
                    return
                self._in_work += 1
                self._queue.append(self._threads.submit(self._work, chunk))

    def _cancelled(self) -> bool:
        return self._closed or self._stopped()

    def _work(self, chunk: list[FetchedClip]) -> list[WorkerEvent]:
        # The next chunk is begun before this one is returned: whoever has the result may rely on it.
        events: list[WorkerEvent] = []
        try:
            clips = [fetched.wait() for fetched in chunk]
            events = list(map(_hold_copy, clips, self._pool.in_worker(clips, self._cancelled)))
        finally:
            for fetched in chunk:
                fetched.release()
            with self._lock:
                self._in_work -= 1
                for event in events:
                    self._waiting.add(event)
                self._begin_more()
        return events


def _hold_copy(clip: Clip, event: WorkerEvent) -> WorkerEvent:
    """The event of a clip, which holds the clip's copy as long as it is needed: that of a long clip is read again."""
    if clip.copy is None:
        return event
    if isinstance(event, FailedClip):
        return replace(event, clip=replace(clip, copy=None))
    long = isinstance(event, LoadedClip) and event.long
    return replace(event, info=replace(event.info, clip=clip if long else replace(clip, copy=None)))


class _Waiting:
    """The bytes of events that wait, and of the copies that they hold, which several may share."""

    def __init__(self) -> None:
        self.bytes = 0
        self._holders: Counter[Copy] = Counter()

    def add(self, event: WorkerEvent) -> None:
        copy = _held_copy(event)
        if copy is not None:
            self._holders[copy] += 1
        self.bytes += event.nbytes + (copy.size if copy is not None and self._holders[copy] == 1 else 0)

    def remove(self, event: WorkerEvent) -> int:
        """Returns how many bytes are fewer."""
        copy, fewer = _held_copy(event), event.nbytes
        if copy is not None:
            self._holders[copy] -= 1
            if not self._holders[copy]:
                del self._holders[copy]
                fewer += copy.size
        self.bytes -= fewer
        return fewer


def _held_copy(event: WorkerEvent) -> Copy | None:
    copy = event.info.clip.copy if isinstance(event, LoadedClip) else None
    return copy if isinstance(copy, Copy) else None


class PoolMap:
    """Has a pool compute steps of long clips, without gradients, and read them.

    Args:
        threads: that wait for the pool.
        pool: of the workers.

    Attributes:
        workers: how many work at once.
        read: has the pool read one channel of a long clip.
    """

    def __init__(self, threads: ThreadPoolExecutor, pool: WorkerPool) -> None:
        self._threads, self._pool = threads, pool
        self.workers, self.read = pool.workers, pool.read

    def __call__(self, step: Step[Y], items: Iterable[Tensor]) -> Iterator[Y]:
        """The step of each item, in the order of the items, some of which are begun ahead."""

        def apply(item: Tensor) -> Y:
            return self._pool.apply(step.name, item, *step.arguments)  # type: ignore[no-any-return]

        return map_ahead(self._threads, apply, items, self._pool.workers + 1)


def map_ahead(threads: ThreadPoolExecutor, function: Callable[[X], Y], items: Iterable[X], ahead: int) -> Iterator[Y]:
    """The function of each item, in the order of the items; up to `ahead` more than are asked for are begun."""
    pending: deque[Future[Y]] = deque()
    try:
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
