"""Metadata of clips: the columns of a manifest, which index lines have under `meta`, and their names in tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hlfeat.text import as_unicode

_EXACT = 2**53  # float64 has every integer up to it


def meta_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of an index line; {} where there is none."""
    meta = record.get("meta")
    return dict(meta) if isinstance(meta, dict) else {}


def is_inexact(value: object) -> bool:
    """Whether float64 may round a value: whether it is an integer beyond 2^53.

    >>> is_inexact(2**53), is_inexact(2**53 + 1), is_inexact(1e300)
    (False, True, False)
    """
    return type(value) is int and abs(value) > _EXACT


def column_names(names: Iterable[str], reserved: Iterable[str]) -> dict[str, str]:
    """For each column of metadata its name in a table, which is `meta.NAME` where the table has that name already.

    Bytes that are not UTF-8 are escapes in it.

    >>> column_names(["id", "meta.id", "label"], ["id"])
    {'id': 'meta.id', 'meta.id': 'meta.meta.id', 'label': 'label'}
    """
    columns, taken = {}, set(reserved)
    for name in names:
        column = as_unicode(name)
        while column in taken:
            column = f"meta.{column}"
        columns[name] = column
        taken.add(column)
    return columns
