"""Tables at URLs: files whose ranges are asked for as pyarrow wants them, so that no table comes whole."""

from __future__ import annotations

import os
from dataclasses import replace

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Stamp
from hlfeat.audio.table_fetcher import TableFetcher
from hlfeat.audio.table_file import TABLE_CHANGED
from hlfeat.errors import ClipError
from hlfeat.remote.errors import RemoteError
from hlfeat.remote.objects import read, stamp_of_file
from hlfeat.remote.ranged_file import RangedFile
from hlfeat.remote.retries import Retries
from hlfeat.remote.transfer import BytesSink, transfer
from hlfeat.remote.urls import is_url, joined, normal_url, shown_url


def open_ranged(url: str, retries: Retries, stamp: Stamp | None = None) -> tuple[RangedFile, Stamp]:
    """An object, with its size and modification time. Raises ClipError, also where it is read, and is another by then.

    Args:
        stamp: the size and the time, if they are known.
    """
    try:
        stamp = stamp or stamp_of_file(url, retries)
    except RemoteError as e:
        raise ClipError(e.code, str(e)) from e

    size, modified = stamp

    def fetch(start: int, end: int) -> bytes:
        sink = BytesSink()
        try:
            now = transfer(url, sink, start, end, retries)
        except RemoteError as e:
            raise ClipError(e.code, str(e)) from e
        if now.size not in (None, size) or (now.modified != modified and None not in (now.modified, modified)):
            raise ClipError("unreadable", TABLE_CHANGED)  # ranges of two objects make no table
        return bytes(sink.data)

    return RangedFile(size, fetch), stamp


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
