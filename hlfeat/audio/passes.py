"""Open files that neighbouring segments share: where seeks are not exact, one pass over the file serves them all."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Stamp
from hlfeat.audio.decoder import Decoder

_TAIL = 1 << 20  # samples of all channels that stay, for segments that overlap
_OPEN = 8  # files at once
_SEEN = 1024

_Key = tuple[str, int | None, int | None]  # path or URL, offset of a member, row of a table


class OpenFile:
    """A decoder and how far it has read.

    Args:
        stamp: size and modification time of the file when it was opened.

    Attributes:
        position: the next sample.
        ended: whether the file has been read to its end.
    """

    def __init__(self, decoder: Decoder, stamp: Stamp) -> None:
        self.decoder, self.position, self.ended, self.stamp = decoder, 0, False, stamp
        self._tail: deque[np.ndarray] = deque()  # what was read last, up to where the decoder is
        self._tail_size = 0
        self._ahead = 0  # samples of the tail that are to be read again

    def can_reach(self, sample: int) -> bool:
        """Whether `go_to` gets there or before it."""
        return self.decoder.exact_seek or sample >= self.position + self._ahead - self._tail_size

    def go_to(self, sample: int) -> None:
        """Go to a sample as far as that is possible without decoding."""
        decoded = self.position + self._ahead
        if decoded - self._tail_size <= sample <= decoded:
            self.position, self._ahead = sample, decoded - sample
        elif self.decoder.exact_seek and sample != self.position:
            self.decoder.seek(sample)
            self.position, self._ahead = sample, 0
            self._tail.clear()
            self._tail_size = 0

    def read(self, samples: int) -> np.ndarray:
        """The next samples; fewer, and perhaps none, only at the end. Shape: [samples, channels]."""
        if self._ahead:
            tail = np.concatenate(self._tail)
            block = tail[len(tail) - self._ahead :][:samples]
            self._ahead -= len(block)
            self.position += len(block)
            return block
        block = self.decoder.read(samples)
        self.ended = len(block) < samples
        self.position += len(block)
        if not self.decoder.exact_seek:
            self._remember(block)
        return block

    def _remember(self, block: np.ndarray) -> None:
        self._tail.append(block)
        self._tail_size += len(block)
        most = _TAIL // self.decoder.channels
        while len(self._tail) > 1 and self._tail_size - len(self._tail[0]) >= most:
            self._tail_size -= len(self._tail.popleft())

    def close(self) -> None:
        self.decoder.close()


class SharedPasses:
    """Files that are open for the next segment. While a thread reads segments of such a file, others wait for it.

    Files that are sought exactly are not among them: threads read those side by side.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[_Key, tuple[threading.RLock, int]] = {}  # and how many hold it, or wait for it
        self._open: OrderedDict[_Key, OpenFile] = OrderedDict()
        self._exact: OrderedDict[_Key, None] = OrderedDict()  # files that need no pass, the last ones that were seen

    @contextmanager
    def hold(self, clip: Clip) -> Iterator[None]:
        """Keep other threads from this clip's file, while segments of it are read in order."""
        key = _key(clip)
        with self._lock:
            if key in self._exact:
                lock = None
            else:
                lock, users = self._holders.get(key, (threading.RLock(), 0))
                self._holders[key] = lock, users + 1
        if lock is None:
            yield
            return
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._holders.pop(key)
                if users > 1:
                    self._holders[key] = lock, users - 1

    def is_exact(self, clip: Clip) -> bool:
        """Whether the clip's file has been found to be sought exactly."""
        with self._lock:
            return _key(clip) in self._exact

    def take(self, clip: Clip) -> OpenFile | None:
        """The open file, which is the caller's then."""
        with self._lock:
            return self._open.pop(_key(clip), None)

    def give_back(self, clip: Clip, file: OpenFile) -> None:
        """Leave the file open for the next segment, or close it if that would not help."""
        key, closing = _key(clip), [file]
        with self._lock:
            if file.decoder.exact_seek:
                self._exact[key] = None
                if len(self._exact) > _SEEN:
                    self._exact.popitem(last=False)
            elif not file.ended:
                closing = [self._open.pop(key)] if key in self._open else []
                self._open[key] = file
                if len(self._open) > _OPEN:
                    closing.append(self._open.popitem(last=False)[1])
        for closed in closing:
            closed.close()

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            files = list(self._open.values())
            self._open.clear()
        for file in files:
            file.close()


def _key(clip: Clip) -> _Key:
    return clip.source, None if clip.span is None else clip.span.offset, None if clip.row is None else clip.row.number
