"""Long clips read before their turn, several at once, in bounded memory.

Reads begin in the order in which they were asked for, and each of them has its own share of the memory. So one that
waits for room holds nothing that an earlier one needs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from torch import Tensor

from hlfeat.extraction.events import ClipInfo

Cancelled = Callable[[], bool]
Read = Callable[[ClipInfo, int, Cancelled], Generator[Tensor, None, None]]


class ReadAhead:
    """Reads long clips in threads. As a context, it ends all reads.

    Args:
        read: the samples of one channel of a clip, in blocks.
        cancelled: becomes true when the run should stop.
        at_once: clips that are read at the same time.
        most_bytes: of blocks that wait, in all; each read may exceed its share by up to a block.
    """

    def __init__(self, read: Read, cancelled: Cancelled, at_once: int, most_bytes: int) -> None:
        self._read, self._cancelled = read, cancelled
        self._at_once, self._share = at_once, most_bytes // at_once
        self._changed = threading.Condition()
        self._upcoming: deque[ClipRead] = deque()
        self._open: list[ClipRead] = []  # begun, and not closed yet
        self._working: list[ClipRead] = []  # whose threads may not have ended

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._upcoming.clear()
            for read in list(self._open):
                read.close()
        for read in self._working:
            read.thread.join()

    @property
    def waiting_bytes(self) -> int:
        """Of blocks that were read and not taken yet."""
        with self._changed:
            return sum(read.waiting_bytes for read in self._open)

    def add(self, info: ClipInfo, channel: int) -> ClipRead:
        """Read one channel of a clip, as soon as fewer than `at_once` are open."""
        with self._changed:
            read = ClipRead(self, info, channel)
            self._upcoming.append(read)
            self._begin_more()
        return read

    def _begin_more(self) -> None:
        while self._upcoming and len(self._open) < self._at_once:
            self._begin(self._upcoming.popleft())

    def _begin(self, read: ClipRead) -> None:
        self._open.append(read)
        self._working = [other for other in self._working if other.thread.is_alive()]
        read.thread.start()
        self._working.append(read)

    # What follows is for ClipRead, which holds the lock.

    def need(self, read: ClipRead) -> None:
        """Begin a read now: somebody waits for it."""
        if read in self._upcoming:
            self._upcoming.remove(read)
            self._begin(read)

    def closed(self, read: ClipRead) -> None:
        """Note that a read was closed, and begin the next."""
        if read in self._upcoming:
            self._upcoming.remove(read)
        elif read in self._open:
            self._open.remove(read)
        self._begin_more()


class ClipRead:
    """The samples of one channel of a clip, to be iterated over once; then, or when it is closed, it makes room."""

    def __init__(self, ahead: ReadAhead, info: ClipInfo, channel: int) -> None:
        self._ahead, self._info, self._channel = ahead, info, channel
        self._changed = ahead._changed
        self._blocks: deque[Tensor] = deque()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self.thread = threading.Thread(target=self._run, name="long clip", daemon=True)
        self.waiting_bytes = 0

    def close(self) -> None:
        """Stop reading, if that has not ended."""
        with self._changed:
            if not self._closed:
                self._closed, self.waiting_bytes = True, 0
                self._blocks.clear()
                self._ahead.closed(self)
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Tensor]:
        """The blocks, as they are read; then what reading them has raised."""
        try:
            with self._changed:
                self._ahead.need(self)
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._blocks or self._ended or self._closed)
                    if not self._blocks:
                        break
                    block = self._blocks.popleft()
                    self.waiting_bytes -= block.nbytes
                    self._changed.notify_all()
                yield block
            error, self._error = self._error, None
            if error is not None:
                raise error
        finally:
            self.close()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with closing(self._ahead._read(self._info, self._channel, self._cancelled)) as blocks:
                while self._has_room():
                    block = next(blocks, None)
                    if block is None:
                        break
                    with self._changed:
                        if not self._closed:
                            self._blocks.append(block)
                            self.waiting_bytes += block.nbytes
                        self._changed.notify_all()
        except BaseException as e:  # it is raised where the samples are wanted
            error = e
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait until there is room for a block. Returns False if the read was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._blocks or self.waiting_bytes < self._ahead._share)
            return not self._closed

    def _cancelled(self) -> bool:
        return self._closed or self._ahead._cancelled()
