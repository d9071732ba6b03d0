"""CSV: a row for each pooled vector or frame, a column for each of its values."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from hlfeat.conversion.draft_file import DraftFile
from hlfeat.conversion.metadata import as_text
from hlfeat.conversion.source import SourceClip
from hlfeat.conversion.tables import FIXED, Table, value_names
from hlfeat.conversion.target import Conversion
from hlfeat.text import as_unicode


class CsvTable(Table):
    """`part-00000.csv`, ...: UTF-8, separated by commas, each file with a header.

    A number has as many digits as it takes to read the same one.
    """

    suffix = ".csv"
    nested = False

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        self.header = [*FIXED, *self.columns.values(), *value_names(self.features)]

    def reserved(self) -> Iterable[str]:
        return (*FIXED, *value_names(self.features))

    def open(self, number: int) -> CsvShard:
        return CsvShard(self.path(number), self)


class CsvShard(DraftFile):
    """One file; an OpenShard."""

    def __init__(self, path: Path, table: CsvTable) -> None:
        super().__init__(path)
        self._table = table
        self._write([table.header])

    def add(self, clip: SourceClip) -> None:
        meta = [as_text(clip.meta.get(name)) for name in self._table.columns]
        for rows in self._table.rows(clip):
            values = rows.features.astype(str).tolist()  # the shortest that reads as the same float32 or float16
            times = zip(rows.start_s.tolist(), rows.end_s.tolist(), strict=True)
            self._write([[rows.id, *time, *meta, *row] for time, row in zip(times, values, strict=True)])

    def _write(self, rows: Iterable[Iterable[object]]) -> None:
        lines = _Lines()
        csv.writer(lines, lineterminator="\r\n").writerows(rows)
        self.file.write(as_unicode("".join(lines)).encode())

    def commit(self) -> list[Path]:
        return [self.publish()]


class _Lines(list[str]):
    """Takes lines that end in CR LF, so that both are quoted inside values, and has them with LF alone."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")
