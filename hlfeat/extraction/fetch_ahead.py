"""Clips whose bytes lie elsewhere, such as at a URL, brought here before their turn, in bounded memory."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Borrowed, Copy
from hlfeat.errors import ClipError


class Fetcher(Protocol):
    """Brings the bytes of one kind of clips. To add one: a class with these, and an entry of `fetchers`."""

    def brings(self, clip: Clip) -> bool:
        """Whether the clip's bytes lie where this fetcher brings them from."""

    def fetch(self, clip: Clip) -> Copy | Borrowed:
        """The bytes. Called by several threads, for one clip after the other, roughly in order; neighbours of one file
        may get the same copy. Raises ClipError."""

    def stop(self) -> None:
        """Have fetches that are under way end soon, with whatever error."""

    def close(self) -> None:
        """Give up what is open. No thread calls `fetch` any more."""


class FetchAhead:
    """Iterates over clips, in order, and has the bytes of the next ones fetched meanwhile. As a context, it ends that.

    Args:
        clips: in order.
        fetchers: tried in order; a clip that none brings is passed on as it is.
        at_once: clips whose bytes are being fetched or wait, at most.
        most_bytes: of copies that have not been given up; one more may be begun for each of `at_once`.
        cancelled: becomes true when the run should stop.
    """

    def __init__(
        self,
        clips: Iterable[Clip],
        fetchers: Sequence[Fetcher],
        at_once: int,
        most_bytes: int,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clips, self._fetchers = iter(clips), fetchers
        self._at_once, self._most_bytes, self._cancelled = at_once, most_bytes, cancelled
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="fetch") if fetchers else None
        self._lock = threading.RLock()
        self._ahead: deque[FetchedClip] = deque()
        self._begun = self._bytes = 0  # of fetches: how many have not been taken; what their copies hold
        self._holders: Counter[Copy | Borrowed] = Counter()  # of each copy: clips of which it was not given up

    def __enter__(self) -> FetchAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        for fetcher in self._fetchers:
            fetcher.close()

    def stop(self) -> None:
        """Have fetches that are under way end soon: whoever waits for them need not wait for a silent server."""
        for fetcher in self._fetchers:
            fetcher.stop()

    def __iter__(self) -> Iterator[FetchedClip]:
        return self

    def __next__(self) -> FetchedClip:
        with self._lock:
            if not self._ahead and not self._begin(self._next_clip()):
                raise StopIteration
            self.begin_more()
            return self._ahead.popleft()

    def begin_more(self) -> None:
        """Begin fetches while there is room."""
        with self._lock:
            while len(self._ahead) < self._at_once and self._begun < self._at_once and self._bytes < self._most_bytes:
                if not self._begin(self._next_clip()):
                    return

    def _next_clip(self) -> Clip | None:
        return next(self._clips, None)

    def _begin(self, clip: Clip | None) -> bool:
        if clip is None:
            return False
        fetcher = next((f for f in self._fetchers if clip.fault is None and f.brings(clip)), None)
        fetched = FetchedClip(self, clip)
        if fetcher is not None and self._threads is not None:
            self._begun += 1
            fetched.future = self._threads.submit(self._fetch, fetcher, fetched)
        self._ahead.append(fetched)
        return True

    def _fetch(self, fetcher: Fetcher, fetched: FetchedClip) -> Clip:
        clip = fetched.clip
        if self._cancelled():
            return replace(clip, fault=("cancelled", "the run was stopped"))
        try:
            copy = fetcher.fetch(clip)
        except ClipError as e:
            return replace(clip, fault=(e.code, str(e)))
        with self._lock:
            fetched.copy = copy
            self._holders[copy] += 1
            if self._holders[copy] == 1:  # else another clip's copy
                self._bytes += copy.size
        return replace(clip, copy=copy)

    def taken(self) -> None:
        """A clip's bytes are wanted now: another fetch may begin."""
        with self._lock:
            self._begun -= 1
        self.begin_more()

    def released(self, copy: Copy | Borrowed | None) -> None:
        """A clip does not need its copy any more."""
        if copy is not None:
            with self._lock:
                self._holders[copy] -= 1
                if not self._holders[copy]:
                    del self._holders[copy]
                    self._bytes -= copy.size
        self.begin_more()


class FetchedClip:
    """A clip whose bytes are here, or on their way.

    Attributes:
        clip: as it was listed.
        copy: of its bytes, once they are here.
    """

    def __init__(self, ahead: FetchAhead, clip: Clip) -> None:
        self.clip = clip
        self.copy: Copy | Borrowed | None = None
        self._ahead = ahead
        self.future: Future[Clip] | None = None

    def wait(self) -> Clip:
        """The clip with its copy, or with the fault that fetching it met."""
        if self.future is None:
            return self.clip
        try:
            return self.future.result()
        finally:
            self._ahead.taken()

    def release(self) -> None:
        """Forget the copy: what has it still, such as a long clip, keeps it."""
        if self.future is not None:
            copy, self.future, self.copy = self.copy, None, None
            self._ahead.released(copy)
