"""The bytes of a clip, wherever they are: a file, or a member's range of an archive.

libsndfile can read through Python functions, but each of its many small reads then waits for the interpreter's lock:
beside a thread that computes in Python, a minute of FLAC has taken 1.9 s instead of 26 ms. Through a file descriptor it
reads by itself, but on to the file's end. So a member is copied into a file without a name that is held in memory,
where the system has such and unless the member is large.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from hlfeat.audio.clip import Clip, Span
from hlfeat.audio.seekable import SeekableFile
from hlfeat.errors import ClipError

MAX_COPY = 64 << 20  # bytes of a member that is copied; a larger one is read through Python
PIECE = 1 << 20
LONG_PATH = 1024  # bytes, beyond what libsndfile takes


class Range(SeekableFile):
    """A range of an open file, from its own position 0; other readers of the file are not disturbed.

    An error of the file system ends the reading and is kept in `error`: libsndfile's callbacks could not report it.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        super().__init__(size)
        self.descriptor, self.offset = descriptor, offset
        self.error: OSError | None = None

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)[: max(0, self.size - self.position)]
        try:
            n = os.preadv(self.descriptor, [view], self.offset + self.position) if view else 0
        except OSError as e:
            self.error, n = e, 0
        self.position += n
        return n


@contextmanager
def open_bytes(clip: Clip) -> Iterator[BinaryIO]:
    """The bytes of a clip's file or member, from their start; to seek and to read."""
    with open(clip.file, "rb") as file:
        if clip.range is None:
            yield file
            return
        part = Range(file.fileno(), clip.range.offset, clip.range.size)
        try:
            yield io.BufferedReader(part)
        finally:
            if part.error is not None:  # more of a reason than what it led to
                raise _unreadable(part.error)


def clip_size(clip: Clip) -> int:
    """Bytes of a clip's file or member."""
    return os.stat(clip.file).st_size if clip.range is None else clip.range.size


@contextmanager
def byte_range(clip: Clip, start: int, end: int) -> Iterator[BinaryIO]:
    """Bytes of a clip's file or member, as a file of their own."""
    first = start if clip.range is None else clip.range.offset + start
    with open(clip.file, "rb") as file:
        part = Range(file.fileno(), first, end - start)
        try:
            yield io.BufferedReader(part)
        finally:
            if part.error is not None:
                raise _unreadable(part.error)


@contextmanager
def piped(clip: Clip, patch: tuple[int, bytes] | None = None, end: int | None = None) -> Iterator[int]:
    """The reading end of a pipe through which the bytes of a clip come.

    Args:
        patch: bytes that go in the place of others, and their position.
        end: position at which to stop; None: at the end of the file.

    Raises ClipError, at the end, where the file could not be read.
    """
    reading, writing = os.pipe()
    feeder = _Feeder(clip, writing, patch, end)
    feeder.start()
    try:
        yield reading
    finally:
        os.close(reading)  # which ends the feeder, if it has not come to its end
        feeder.join()
        if feeder.error is not None:
            raise _unreadable(feeder.error)


class _Feeder(threading.Thread):
    """Writes the bytes of a clip into a pipe, and closes it."""

    def __init__(self, clip: Clip, pipe: int, patch: tuple[int, bytes] | None, end: int | None) -> None:
        super().__init__(name="feeder", daemon=True)
        self._clip, self._pipe, self._patch = clip, pipe, patch
        self._left = clip_size(clip) if end is None else end  # bytes to write
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            with open_bytes(self._clip) as file, suppress(BrokenPipeError):
                if self._patch is not None:
                    position, replacement = self._patch
                    self._write(file.read(position) + replacement)
                    file.seek(position + len(replacement))
                while data := file.read(min(PIECE >> 2, self._left)):
                    self._write(data)
        except OSError as e:
            self.error = e
        except ClipError as e:
            self.error = OSError(str(e))
        finally:
            os.close(self._pipe)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        self._left -= len(view)
        while view:
            view = view[os.write(self._pipe, view) :]


@contextmanager
def sound_source(clip: Clip) -> Iterator[bytes | int | BinaryIO]:
    """What soundfile is to open for a clip: a path, a descriptor (to be left open), or something to read from.

    Raises:
        ClipError: unreadable, truncated.
    """
    if clip.range is None:
        path = os.fsencode(clip.file)
        if len(path) < LONG_PATH:
            yield path
            return
        with open(path, "rb") as file:
            yield file.fileno()
        return
    copy = _unnamed_file() if clip.range.size <= MAX_COPY else None
    if copy is None:
        with open_bytes(clip) as part:
            yield part
        return
    try:
        _copy(clip.file, clip.range, copy)
        yield copy
    finally:
        os.close(copy)


def _unnamed_file() -> int | None:
    try:
        return os.memfd_create("member")
    except (AttributeError, OSError):  # not Linux, or forbidden
        return None


def _copy(path: str, span: Span, target: int) -> None:
    try:
        with open(path, "rb", buffering=0) as file:
            at = 0
            while at < span.size:
                piece = os.pread(file.fileno(), min(PIECE, span.size - at), span.offset + at)
                if not piece:
                    raise ClipError("truncated", f"the archive ends after {at} of the member's {span.size} bytes")
                at += os.write(target, piece)
    except OSError as e:
        raise _unreadable(e) from e
    os.lseek(target, 0, os.SEEK_SET)


def check_span(span: Span, archive: os.stat_result) -> None:
    """Raises ClipError where a member's bytes cannot be what they were when its archive was listed."""
    if span.size == 0:
        raise ClipError("empty", "the file has 0 bytes")
    if (archive.st_size, archive.st_mtime_ns) != span.stamp:
        raise ClipError("unreadable", "the archive was changed after its members were listed")
    check_end(span, archive.st_size)


def check_end(span: Span, size: int) -> None:
    """Raises ClipError where an archive of this size (bytes) ends within a member."""
    if span.offset + span.size > size:
        there = max(0, size - span.offset)
        raise ClipError("truncated", f"the archive ends after {there} of the member's {span.size} bytes")


def _unreadable(e: OSError) -> ClipError:
    return ClipError("unreadable", e.strerror or str(e))
