"""Parquet: a row for each pooled vector, for each frame, or for each clip with its frames as a list."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hlfeat.conversion.draft_file import DraftFile
from hlfeat.conversion.metadata import as_text
from hlfeat.conversion.plan import LargeInt
from hlfeat.conversion.source import Source, SourceClip
from hlfeat.conversion.tables import FEATURES, FIXED, ClipRows, Table, value_names
from hlfeat.conversion.target import Conversion
from hlfeat.errors import UsageError
from hlfeat.text import as_unicode

GROUP_BYTES = 1 << 24  # of the features of a row group, which is held in memory until it is written


class ParquetTable(Table):
    """`part-00000.parquet`, ... The column `features` has lists of as many values as a vector, or a frame, has.

    Columns of metadata have the type of their values: text, whole numbers, numbers or truth. Where these are mixed, or
    lists and mappings, they are text, as JSON.
    """

    suffix = ".parquet"
    nested = True

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        self.schema = self._make_schema()

    @classmethod
    def check(cls, source: Source, dtype: np.dtype[Any] | None, frames: bool) -> np.dtype[Any]:
        if find_spec("pyarrow") is None:
            raise UsageError("Parquet needs pyarrow: pip install 'hlfeat[parquet]'")
        return super().check(source, dtype, frames)

    def _make_schema(self) -> Any:
        import pyarrow as pa

        conversion = self.conversion
        value = pa.float16() if conversion.dtype == np.float16 else pa.float32()
        vector = pa.list_(value, conversion.dims)
        types = {"id": pa.string(), "start_s": pa.float64(), "end_s": pa.float64()}
        for name, column in self.columns.items():
            types[column] = arrow_type(conversion.plan.columns[name])
        types[FEATURES] = pa.list_(vector) if self.by_clip else vector
        facts = {"values": value_names(self.features), "description": conversion.source.data}
        return pa.schema(types, metadata={"hlfeat": json.dumps(facts)})

    def open(self, number: int) -> ParquetShard:
        return ParquetShard(self.path(number), self)


class ParquetShard(DraftFile):
    """One file; an OpenShard. Rows are held until they fill a row group."""

    def __init__(self, path: Path, table: ParquetTable) -> None:
        import pyarrow.parquet as pq

        super().__init__(path)
        self._table, self._schema = table, table.schema
        self._rows: list[ClipRows] = []
        self._bytes = 0
        texts = [field.name for field in self._schema if field.type == "string"]
        self._writer = pq.ParquetWriter(self.file, self._schema, use_dictionary=texts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.is_open = False  # or it would write the end of a file that is thrown away
        super().__exit__(kind, error, trace)

    def add(self, clip: SourceClip) -> None:
        for rows in [self._table.row_of_clip(clip)] if self._table.by_clip else self._table.rows(clip):
            self._rows.append(rows)
            self._bytes += rows.features.nbytes
            if self._bytes >= GROUP_BYTES:
                self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        if self._rows:
            arrays = [*self._fixed_arrays(), *self._meta_arrays(), self._feature_array()]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0

    def _fixed_arrays(self) -> list[Any]:
        import pyarrow as pa

        ids = [as_unicode(rows.id) for rows in self._rows for _ in rows.start_s]
        times = (np.concatenate([getattr(rows, name) for rows in self._rows]) for name in FIXED[1:])
        return [pa.array(ids, pa.string()), *map(pa.array, times)]

    def _meta_arrays(self) -> Iterable[Any]:
        import pyarrow as pa

        for name, column in self._table.columns.items():
            kind = self._schema.field(column).type
            as_is = kind != pa.string()
            values = (value if as_is else _text(value) for value in (rows.meta.get(name) for rows in self._rows))
            repeated = [value for value, rows in zip(values, self._rows, strict=True) for _ in rows.start_s]
            yield pa.array(repeated, kind)

    def _feature_array(self) -> Any:
        import pyarrow as pa

        values = pa.array(np.concatenate([rows.features for rows in self._rows]).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(values, self._table.conversion.dims)
        if not self._table.by_clip:
            return vectors
        ends = np.cumsum([0, *(len(rows.features) for rows in self._rows)])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), vectors)

    def commit(self) -> Sequence[Path]:
        self._write_group()
        self._writer.close()
        return [self.publish()]


def arrow_type(kinds: set[type]) -> Any:
    """The type of a column that has values of these types. What it cannot hold exactly is text."""
    import pyarrow as pa

    kinds = kinds - {type(None)}
    if kinds == {bool}:
        return pa.bool_()
    if kinds and kinds <= {int, LargeInt}:
        return pa.int64()
    return pa.float64() if kinds in ({float}, {int, float}) else pa.string()


def _text(value: Any) -> str | None:
    return None if value is None else as_unicode(as_text(value))
