"""Tables at URLs: files whose ranges are asked for as pyarrow wants them, so that no table comes whole."""

from __future__ import annotations

import os
from dataclasses import replace

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Stamp
from hlfeat.audio.seekable import SeekableFile
from hlfeat.audio.table_rows import TABLE_CHANGED, TableFetcher
from hlfeat.errors import ClipError
from hlfeat.remote.errors import RemoteError
from hlfeat.remote.objects import read, stat
from hlfeat.remote.retries import Retries
from hlfeat.remote.transfer import BytesSink, transfer
from hlfeat.remote.urls import is_url, joined, normal_url, shown_url


class RangedFile(SeekableFile):
    """An object at a URL as a file to seek in. Each `read` is a request, and raises ClipError where it fails.

    Args:
        url: of the object.
        stamp: its size and modification time. One that has others by now is read no more: ranges of two objects make
            no table.
        retries: of each request.
    """

    def __init__(self, url: str, stamp: Stamp, retries: Retries) -> None:
        super().__init__(stamp[0])
        self._url, self._stamp, self._retries = url, stamp, retries

    def read(self, size: int | None = -1, /) -> bytes:
        end = self.size if size is None or size < 0 else min(self.position + size, self.size)
        if end <= self.position:
            return b""
        sink = BytesSink()
        try:
            found = transfer(self._url, sink, self.position, end, self._retries)
        except RemoteError as e:
            raise ClipError(e.code, str(e)) from e
        size, modified = self._stamp
        if found.size not in (None, size) or (found.modified != modified and None not in (found.modified, modified)):
            raise ClipError("unreadable", TABLE_CHANGED)
        self.position = end
        return bytes(sink.data)


def open_ranged(url: str, retries: Retries, stamp: Stamp | None = None) -> tuple[RangedFile, Stamp]:
    """An object, with its size and modification time. Raises ClipError.

    Args:
        stamp: the size and the time, if they are known.
    """
    try:
        if stamp is None:
            found = stat(url, retries)
            if found.is_folder or found.size is None:
                raise RemoteError("unreadable", "expected a file whose size its server says")
            stamp = found.size, found.modified
    except RemoteError as e:
        raise ClipError(e.code, str(e)) from e
    return RangedFile(url, stamp, retries), stamp


def table_fetcher(retries: Retries) -> TableFetcher:
    """Brings the audio of rows of tables, at URLs too. Its `stop` ends requests that are under way."""
    while_wanted = replace(retries, stopped=lambda: fetcher.stopped or retries.stopped())

    def open_remote(clip: Clip) -> tuple[RangedFile, Stamp] | None:
        return open_ranged(clip.source, while_wanted) if is_url(clip.path) else None

    def read_remote(name: str, table: str) -> bytes | None:
        if is_url(name):
            url = name
        elif is_url(table) and not os.path.isabs(name):
            url = joined(table, name)
        else:
            return None
        try:
            return read(normal_url(url), retries=while_wanted)
        except RemoteError as e:
            raise ClipError(e.code, f"{shown_url(name)}: {e}") from e

    fetcher = TableFetcher(open_remote, read_remote)
    return fetcher
