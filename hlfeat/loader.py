"""Clips decoded and resampled ahead of the device: threads, input order, bounded memory."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from hlfeat.clip import Clip, printable
from hlfeat.decode import decode
from hlfeat.errors import ClipError
from hlfeat.resample import Resampler

log = logging.getLogger("hlfeat")

LOOK_AHEAD_BYTES = 128 << 20  # decoded audio that may wait, beyond what the threads are at


def out_of_memory(e: BaseException) -> bool:
    """Whether this is how torch or Python say that memory does not suffice (torch on the CPU: a RuntimeError)."""
    return isinstance(e, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(e)


@dataclass
class Prepared:
    """A decoded and resampled clip: a waveform [T] for each entry it makes in the output."""

    clip: Clip
    waveforms: list[Tensor]
    sample_rate: int
    file_channels: int
    duration: float
    size: int  # of the file, bytes
    modified: int  # nanoseconds since 1970
    seconds: dict[str, float]  # spent on it, by stage

    @property
    def nbytes(self) -> int:
        return sum(w.nbytes for w in self.waveforms)


class Loader:
    """Decodes and resamples clips ahead.

    Args:
        sample_rate: what clips are resampled to, hertz.
        channels: the channel policy (see `decode`).
        workers: threads. soundfile and torch release the interpreter's lock, so threads are enough.
    """

    def __init__(self, sample_rate: int, channels: str | int, workers: int) -> None:
        self.channels = channels
        self.workers = workers
        self.resampler = Resampler(sample_rate)

    def stream(self, clips: Sequence[Clip], stopped: Callable[[], bool]) -> Iterator[Prepared | tuple[Clip, ClipError]]:
        """The clips in order, each with its samples or the reason why not; `stopped` cuts short what is being read."""
        with _Ahead(clips, self.workers, lambda clip, over: self._prepare(clip, lambda: over() or stopped())) as ahead:
            yield from ahead

    def _prepare(self, clip: Clip, cancelled: Callable[[], bool]) -> Prepared:
        """Decode and resample one clip, in a worker thread."""
        start = time.perf_counter()
        try:
            wave = decode(clip, self.channels, cancelled)
            info = os.stat(clip.path)
            decoded = time.perf_counter()
            samples = self.resampler(torch.from_numpy(wave.samples), wave.sample_rate)
        except ClipError:
            raise
        except Exception as e:  # whatever a reader or a file system comes up with is one clip's failure, not the run's
            if out_of_memory(e):
                raise ClipError("out-of-memory", "too large to be held in memory") from e
            log.debug("%s", printable(clip.path), exc_info=True)
            raise ClipError("unreadable", f"{type(e).__name__}: {e}") from e
        seconds = {"decode": decoded - start, "resample": time.perf_counter() - decoded}
        return Prepared(
            clip,
            list(samples),
            wave.sample_rate,
            wave.file_channels,
            wave.duration,
            info.st_size,
            info.st_mtime_ns,
            seconds,
        )


class _Ahead:
    """Prepares clips in threads, ahead of the iteration over them.

    A new clip is begun while fewer than two a thread are being worked on and less than LOOK_AHEAD_BYTES wait. Threads
    begin new ones themselves as they finish, so that they stay busy while the consumer computes.
    """

    def __init__(
        self, clips: Sequence[Clip], workers: int, prepare: Callable[[Clip, Callable[[], bool]], Prepared]
    ) -> None:
        self.upcoming = iter(clips)
        self.workers = workers
        self.prepare = prepare
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self.lock = threading.RLock()
        self.queue: deque[tuple[Clip, Future[Prepared]]] = deque()
        self.busy = self.waiting_bytes = 0
        self.over = False

    def __enter__(self) -> _Ahead:
        self._begin_more()
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.over = True
        self.pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Prepared | tuple[Clip, ClipError]]:
        while self.queue:
            clip, future = self.queue.popleft()
            try:
                prepared = future.result()
            except ClipError as e:
                self._begin_more()
                yield clip, e
            else:
                self._begin_more(-prepared.nbytes)
                yield prepared

    def _begin_more(self, waiting_bytes: int = 0, finished: int = 0) -> None:
        with self.lock:
            self.waiting_bytes += waiting_bytes
            self.busy -= finished
            while not self.over and self.busy < 2 * self.workers and self.waiting_bytes < LOOK_AHEAD_BYTES:
                clip = next(self.upcoming, None)
                if clip is None:
                    return
                self.busy += 1
                self.queue.append((clip, self.pool.submit(self._work, clip)))

    def _work(self, clip: Clip) -> Prepared:
        # Counts before it returns: whoever has the result may rely on the next clip having been begun.
        try:
            prepared = self.prepare(clip, lambda: self.over)
        except BaseException:
            self._begin_more(finished=1)
            raise
        self._begin_more(prepared.nbytes, finished=1)
        return prepared
