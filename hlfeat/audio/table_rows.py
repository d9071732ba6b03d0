"""Rows of Parquet tables that hold audio: the bytes of clips, in one pass over each row group.

A row can only be reached by decoding those before it in its row group. So clips are read in the order of their rows, a
few megabytes at a time. Parquet's smallest unit is a page, which pyarrow holds whole, and twice where it is compressed:
a row group of up to 1024 rows may be a single page.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hlfeat.audio.table_file import as_clip_error, audio_leaves, leaf_of, open_table, text_of
from hlfeat.errors import ClipError
from hlfeat.text import escape_unprintable

BATCH_BYTES = 4 << 20  # of audio that is decoded at once, about
_BATCH_ROWS = 64

_Value = bytes | memoryview | str | ClipError  # a text is the path of a file


class TableRows:
    """The rows of one column of audio, read forwards.

    Args:
        path: of the table.
        column: of audio: bytes, or Hugging Face's struct of bytes and path.
        source: the path, or an open file.
        read_remote: the bytes of a file that a row names; None for one on this machine. Raises ClipError.

    Raises what pyarrow does for a file that cannot be read, or is no such file.
    """

    def __init__(self, path: str, column: str, source: Any, read_remote: Callable[[str], bytes | None]) -> None:
        self._path, self._column, self._read_remote = path, column, read_remote
        self._file = open_table(source)
        try:
            self._leaves = audio_leaves(self._file, column)
            facts = self._file.metadata
            self._starts = [0]  # first rows of row groups, and the number of all
            for group in range(facts.num_row_groups):
                self._starts.append(self._starts[-1] + facts.row_group(group).num_rows)
        except BaseException:
            self._file.close()
            raise
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None  # rows of the column from `_first` on
        self._first = 0
        self._kept: dict[int, _Value] = {}  # rows that were passed, and are wanted
        self._damaged: dict[int, tuple[int, ClipError]] = {}  # by row group: from which row on, and how

    def close(self) -> None:
        self._batches, self._batch = iter(()), None
        self._kept.clear()
        self._file.close()

    def take(self, number: int, wanted: Sequence[int]) -> bytes | memoryview | str:
        """The audio of a row, or the path of the file that it names. Raises ClipError.

        Args:
            wanted: rows, in order, this one too, that will be taken soon: those that are passed are kept for it.
        """
        for passed in wanted:
            if self._first <= passed < number and passed not in self._kept:
                value = self._read(passed)
                self._kept[passed] = bytes(value) if isinstance(value, memoryview) else value
        value = self._kept.pop(number) if number in self._kept else self._read(number)
        if isinstance(value, ClipError):
            raise ClipError(value.code, str(value))
        return value

    def near(self, number: int) -> int:
        """A row of the first batch of the row group that a row is in."""
        group = self._group_of(number)
        start = self._starts[group]
        return start + (number - start) % self._batch_rows(group)

    def _group_of(self, number: int) -> int:
        if not 0 <= number < self._starts[-1]:
            raise ClipError("unreadable", f"expected a row below {self._starts[-1]}, got {number}")
        return bisect_right(self._starts, number) - 1

    def _batch_rows(self, group: int) -> int:
        leaf = leaf_of(self._file, group, self._leaves[0])
        mean = leaf.total_uncompressed_size // max(1, leaf.num_values)
        return int(max(1, min(_BATCH_ROWS, BATCH_BYTES // max(1, mean))))

    def _read(self, number: int) -> _Value:
        group = self._group_of(number)
        if group in self._damaged and number >= self._damaged[group][0]:
            return self._damaged[group][1]
        if group != self._group or number < self._first:
            self._begin(group)
        while self._batch is None or number >= self._first + len(self._batch):
            error = self._next_batch()
            if error is not None:
                if error.code == "unreachable":
                    self._group = -1  # the next row begins anew
                else:
                    self._damaged[group] = self._first, error
                return error
        return self._value(number)

    def _begin(self, group: int) -> None:
        self._batch = None
        self._group, self._first = group, self._starts[group]
        self._batches = self._file.iter_batches(
            self._batch_rows(group), row_groups=[group], columns=self._leaves, use_threads=False
        )

    def _next_batch(self) -> ClipError | None:
        """Go on to the next rows, or say why that is not possible."""
        self._first += 0 if self._batch is None else len(self._batch)
        self._batch = None  # before the next one is there
        try:
            self._batch = next(self._batches).column(0)
        except StopIteration:
            return ClipError("corrupt", f"the row group ends before row {self._first}")
        except Exception as e:
            self._batches = iter(())
            return as_clip_error(e)
        return None

    def _value(self, number: int) -> _Value:
        i = number - self._first
        audio, path = self._batch, None
        if self._leaves[0] != self._column:
            path = text_of(audio.field("path")[i]) if len(self._leaves) > 1 and audio[i].is_valid else None
            audio = audio.field("bytes") if audio[i].is_valid else None
        if audio is not None and audio[i].is_valid:
            return memoryview(audio[i].as_buffer())
        if path:
            try:
                data = self._read_remote(path)
            except ClipError as e:
                return e
            return _file_at(path, self._path) if data is None else data
        return ClipError("bad-row", f"{escape_unprintable(self._path)}:{number}: expected audio, got null")


def _file_at(name: str, table: str) -> str | ClipError:
    """The file that a row names instead of having its bytes: as it is written, or beside the table.

    It is not read here: it may be as long as it likes, and a pipe would never end.
    """
    try:
        path = name if os.path.exists(name) else os.path.join(os.path.dirname(table), name)
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return ClipError("missing", f"{escape_unprintable(name)}: no such file")
    except OSError as e:
        return ClipError("unreadable", f"{escape_unprintable(name)}: {e.strerror or e}")
    if not stat.S_ISREG(info.st_mode):
        code, kind = ("unreadable", "folder") if stat.S_ISDIR(info.st_mode) else ("not-audio", "device or a pipe")
        return ClipError(code, f"{escape_unprintable(name)}: expected a file, found a {kind}")
    return path
