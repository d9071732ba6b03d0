"""Metadata of clips: the columns of a manifest that hlfeat does not interpret, in little memory.

A table of a million rows has few speakers and fewer labels. Values that repeat are one object, and so are whole rows:
a label and a speaker add 14 bytes to the 300 of a clip, five columns with a sentence of its own 230.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

_MOST = 4096  # values of a column, rows and sets of names, that are looked for among those before


class RowMetadata(Mapping[str, Any]):
    """The metadata of one clip: a dictionary whose keys are shared with other clips, and which does not change.

    Args:
        names, values: of the columns, as many of each.

    >>> row = RowMetadata(("label", "speaker"), ("yes", "ann"))
    >>> row["speaker"], dict(row)
    ('ann', {'label': 'yes', 'speaker': 'ann'})
    """

    __slots__ = ("_names", "_values")

    def __init__(self, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        self._names, self._values = names, values

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return RowMetadata, (self._names, self._values)


class MetadataPool:
    """Makes the metadata of rows, and shares what repeats among them."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._values: dict[str, dict[str, str]] = {}
        self._rows: dict[tuple[tuple[str, ...], tuple[Any, ...]], RowMetadata] = {}

    def of(self, values: Mapping[str, Any]) -> RowMetadata | None:
        """The metadata of a row with these values; None if there are none."""
        return self.row(tuple(values), tuple(values.values()))

    def row(self, names: tuple[str, ...], values: tuple[Any, ...]) -> RowMetadata | None:
        """The metadata of a row with these columns; None if there are none."""
        if not names:
            return None
        names = _shared(self._names, names, names)
        texts = True
        shared = []
        for name, value in zip(names, values, strict=True):
            if type(value) is str:
                pool = self._values.get(name)
                if pool is None:
                    pool = self._values[name] = {}
                value = _shared(pool, value, value)
            else:
                texts = False
                value = _as_json_has_it(value)
            shared.append(value)
        row = RowMetadata(names, tuple(shared))
        return _shared(self._rows, (names, tuple(shared)), row) if texts else row  # 1, 1.0 and True are equal


def _shared(pool: dict[Any, Any], key: Any, value: Any) -> Any:
    """What is in the pool; a value that is new there is added, until the pool is full."""
    return pool.setdefault(key, value) if len(pool) < _MOST else pool.get(key, value)


def _as_json_has_it(value: Any) -> Any:
    """Python reads and writes NaN and Infinity, which are no JSON: they become null."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, list):
        return [_as_json_has_it(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_json_has_it(item) for key, item in value.items()}
    return value
