"""The audio of rows of tables, for several threads: each table is read forwards, by one thread at a time."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

from hlfeat.audio.clip import Clip, TableRow
from hlfeat.audio.copies import Borrowed, Copy, Stamp
from hlfeat.audio.table_file import TABLE_CHANGED, as_clip_error
from hlfeat.audio.table_rows import TableRows
from hlfeat.errors import ClipError, UsageError

_OPEN = 3  # tables at once: clips that are fetched ahead may be of the next one


class TableFetcher:
    """Brings the audio of rows of tables; a Fetcher (hlfeat/extraction/fetch_ahead.py).

    Args:
        open_remote: opens the table of a clip at a URL, and says what its size and modification time are; None for a
            clip on this machine. Raises ClipError.
        read_remote: the bytes of a file that a row names instead of having them, by the name and the table's path or
            URL; None for a file on this machine. Raises ClipError.

    Attributes:
        stopped: whether it is to end soon; what is read from servers looks at it.
    """

    def __init__(
        self,
        open_remote: Callable[[Clip], tuple[Any, Stamp] | None] = lambda clip: None,
        read_remote: Callable[[str, str], bytes | None] = lambda name, table: None,
    ) -> None:
        self._open_remote, self._read_remote, self.stopped = open_remote, read_remote, False
        self._lock = threading.Lock()  # of the tables
        self._tables: OrderedDict[tuple[str, str], tuple[TableRows, Stamp | None]] = OrderedDict()
        self._wanted_lock = threading.Lock()
        self._wanted: dict[tuple[str, str], list[int]] = {}  # rows that threads wait for

    def brings(self, clip: Clip) -> bool:
        return clip.row is not None

    def fetch(self, clip: Clip) -> Copy | Borrowed:
        assert clip.row is not None
        key, number = (clip.source, clip.row.column), clip.row.number
        with self._wanted_lock:
            self._wanted.setdefault(key, []).append(number)
        try:
            with self._lock:
                rows, stamp = self._table(clip)
                _check_stamp(stamp or _stamp_of(clip.path), clip.row)
                with self._wanted_lock:
                    wanted = sorted(self._wanted[key])
                value = rows.take(number, wanted)
        finally:
            with self._wanted_lock:
                self._wanted[key].remove(number)
                if not self._wanted[key]:
                    del self._wanted[key]
        if isinstance(value, str):
            return Borrowed(value, clip.row.stamp)
        return Copy(value, clip.row.stamp)

    def near(self, clip: Clip) -> Clip:
        """The clip with the audio of a row of the same row group that is reached at once, to look at its header."""
        row = clip.row
        assert row is not None
        with self._lock:
            number = self._table(clip)[0].near(row.number)
        other = replace(clip, row=replace(row, number=number))
        return replace(other, copy=self.fetch(other))

    def _table(self, clip: Clip) -> tuple[TableRows, Stamp | None]:
        """The clip's table, and the stamp of one at a URL when it was opened."""
        assert clip.row is not None
        key = clip.source, clip.row.column
        if key not in self._tables:
            while len(self._tables) >= _OPEN:
                self._tables.popitem(last=False)[1][0].close()
            try:
                source, stamp = self._open_remote(clip) or (clip.path, None)
                _check_stamp(stamp or _stamp_of(clip.path), clip.row)
                rows = TableRows(clip.path, clip.row.column, source, lambda name: self._read_remote(name, clip.source))
                self._tables[key] = rows, stamp
            except UsageError:
                raise
            except Exception as e:  # pyarrow raises errors of many types
                raise as_clip_error(e) from e
        self._tables.move_to_end(key)
        return self._tables[key]

    def stop(self) -> None:
        """Have what is read from servers end soon."""
        self.stopped = True

    def close(self) -> None:
        for rows, _ in self._tables.values():
            rows.close()
        self._tables.clear()


def read_row(clip: Clip) -> Clip:
    """The clip with its audio, read alone. Raises ClipError, or UsageError without pyarrow."""
    with closing(TableFetcher()) as tables:
        return replace(clip, copy=tables.fetch(clip))


def _stamp_of(path: str) -> Stamp:
    try:
        info = os.stat(path)
    except OSError as e:
        code = "missing" if isinstance(e, FileNotFoundError | NotADirectoryError) else "unreadable"
        raise ClipError(code, e.strerror or str(e)) from e
    return info.st_size, info.st_mtime_ns


def _check_stamp(stamp: Stamp, row: TableRow) -> None:
    """Raises ClipError where the table is not what it was when its rows were listed."""
    if stamp != row.stamp:
        raise ClipError("unreadable", TABLE_CHANGED)
