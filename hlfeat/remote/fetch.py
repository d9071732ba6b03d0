"""Brings the bytes of clips at URLs."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from weakref import WeakValueDictionary

from hlfeat.audio.byte_source import check_end
from hlfeat.audio.clip import Clip, Span
from hlfeat.audio.copies import Copy, CopyWriter
from hlfeat.errors import ClipError
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.tables import table_fetcher
from hlfeat.remote.transfer import transfer
from hlfeat.remote.urls import is_url

Source = tuple[str, Span | None]


class ObjectFetcher:
    """Fetches objects whole, or the members of an archive at a URL; a Fetcher. Segments of an object share a copy.

    What is too large for memory goes into the system's folder for temporary files, as the output may be a bucket.
    """

    def __init__(self, retries: Retries) -> None:
        self._stopped = False
        self._retries = replace(retries, stopped=lambda: self._stopped or retries.stopped())
        self._lock = threading.Lock()
        self._running: dict[Source, Future[Copy]] = {}
        self._copies: WeakValueDictionary[Source, Copy] = WeakValueDictionary()
        self._last: Copy | None = None  # of a segment: the next one may come when the others are done

    def brings(self, clip: Clip) -> bool:
        return is_url(clip.path) and clip.row is None

    def fetch(self, clip: Clip) -> Copy:
        if not clip.is_segment and clip.channel is None:
            return self._fetch(clip)
        source = clip.source, clip.span
        with self._lock:
            copy = self._copies.get(source)
            if copy is not None:
                return copy
            other = self._running.get(source)
            mine = self._running.setdefault(source, Future())
        if other is not None:
            return other.result()
        try:
            copy = self._fetch(clip)
        except BaseException as e:
            mine.set_exception(e)
            raise
        else:
            with self._lock:
                self._copies[source] = self._last = copy
            mine.set_result(copy)
            return copy
        finally:
            with self._lock:
                del self._running[source]

    def _fetch(self, clip: Clip) -> Copy:
        try:
            return fetch_copy(clip, self._retries)
        except RemoteError as e:
            raise ClipError(e.code, str(e)) from e

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._last = None


def fetch_copy(clip: Clip, retries: Retries) -> Copy:
    """The bytes of one clip at a URL.

    Raises RemoteError; ClipError of an archive that ends within it; OutputError where the disk is full.
    """
    writer, span = CopyWriter(), clip.span
    if span is None:
        whole = transfer(clip.source, writer, None, None, retries)
        return writer.copy((writer.size, whole.modified))
    check_end(span, span.stamp[0])
    archive = transfer(clip.source, writer, span.offset, span.offset + span.size, retries)
    if archive.stamp not in (None, span.stamp):
        raise RemoteError("unreadable", "the archive was changed after its members were listed")
    return writer.copy(span.stamp)


def with_copy(clip: Clip, retries: Retries) -> Clip:
    """The clip with its bytes, if they are at a URL; else as it is. Raises ClipError."""
    if clip.fault is not None or not is_url(clip.path):
        return clip
    if clip.row is not None:
        with closing(table_fetcher(retries)) as tables:
            return replace(clip, copy=tables.fetch(clip))
    try:
        return replace(clip, copy=fetch_copy(clip, retries))
    except RemoteError as e:
        raise ClipError(e.code, str(e)) from e
