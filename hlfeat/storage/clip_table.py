"""The clips of a store as columns: what the index says of each, and the metadata that came with the inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hlfeat.errors import UsageError
from hlfeat.storage.metadata import column_names, is_inexact, meta_of
from hlfeat.text import as_unicode, escape_unprintable, nearest

if TYPE_CHECKING:
    import pandas

# Of each clip; None where a clip has none. The types are those of pandas, in which integers may be missing; None: what
# pandas finds.
COLUMNS = {
    "id": None,
    "path": None,
    "frames": "int64",
    "duration": "float64",
    "start": "float64",
    "end": "float64",
    "channel": "Int64",
    "sample_rate": "Int64",
}


def clip_columns(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of each column, for each clip: COLUMNS, then metadata in the order in which it first comes.

    Metadata of a column's name is called `meta.NAME`. A value that a clip does not have is None.
    """
    columns: dict[str, list[Any]] = {key: [] for key in COLUMNS}
    metadata: dict[str, list[Any]] = {}
    for clips, record in enumerate(records):
        for key in COLUMNS:
            columns[key].append(record.get(key))
        for key, value in meta_of(record).items():
            metadata.setdefault(key, [None] * clips).append(value)
        for values in metadata.values():
            if len(values) == clips:
                values.append(None)
    return columns | {name: metadata[key] for key, name in column_names(metadata, COLUMNS).items()}


def to_pandas(records: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """A row for each index line. Raises UsageError where pandas is not installed."""
    try:
        import pandas
    except ImportError as e:
        raise UsageError(f"to_pandas: needs pandas: pip install pandas ({e})") from e

    def series(name: str, values: list[Any]) -> pandas.Series:
        if any(map(is_inexact, values)) and not all(type(value) is int for value in values):
            return pandas.Series(values, dtype=object)  # pandas would round them to float64
        try:
            return pandas.Series(values, dtype=COLUMNS.get(name))
        except UnicodeError:  # a file name that is no UTF-8, which pandas keeps as an object only
            return pandas.Series(values, dtype=object)

    return pandas.DataFrame({name: series(name, values) for name, values in clip_columns(records).items()})


def group_names(records: Iterable[Mapping[str, Any]], column: str) -> list[str]:
    """The value of a column for each clip, as text. Clips that have none are one group, as they may belong together.

    Raises UsageError where no clip has the column.
    """
    columns, column = clip_columns(records), as_unicode(column)
    known = [name for name, values in columns.items() if any(value is not None for value in values)]
    if column not in known:
        listed = ", ".join(map(escape_unprintable, known)) or "none"
        raise UsageError(f"by: no clip has a {column!r}; there are {listed}{nearest(column, known)}")
    return list(map(group_name, columns[column]))


def group_name(value: object) -> str:
    """A value as text: 1 and "1" are the same speaker."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return repr(value)
