"""Checks that the readers of both statistics files share. Each raises ValueError with the key and what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def check_kind(contents: Any, kind: str) -> Mapping[str, Any]:
    """The contents of a JSON file, if they are an object of this kind."""
    if not isinstance(contents, dict) or contents.get("hlfeat") != kind:
        raise ValueError(f'expected an object with "hlfeat": "{kind}"')
    return contents


def count_of(fields: Mapping[str, Any], key: str, least: int) -> int:
    """A whole number from `least`."""
    n = fields.get(key)
    if type(n) is not int or n < least:
        raise ValueError(f"{key}: expected a whole number from {least}, got {n!r}")
    return n


def arrays_of(
    fields: Mapping[str, Any], keys: Sequence[str], shape: tuple[int, ...] | None = None, finite: bool = True
) -> dict[str, np.ndarray]:
    """Nested lists of numbers as float64 arrays of one shape: the given one, or that of the first key."""
    arrays = {key: _array(key, fields.get(key)) for key in keys}
    shape = arrays[keys[0]].shape if shape is None else shape
    for key, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{key}: expected the shape {shape}, got {array.shape}")
        if finite and not np.isfinite(array).all():
            raise ValueError(f"{key}: expected finite numbers")
    return arrays


def _array(key: str, rows: Any) -> np.ndarray:
    values = np.array(rows, dtype=object)  # lists of different lengths stay lists
    if not values.size or not all(type(x) in (int, float) for x in values.flat):
        raise ValueError(f"{key}: expected a list for each channel of a number for each band")
    try:
        return values.astype(np.float64)
    except OverflowError as e:  # an integer of hundreds of digits
        raise ValueError(f"{key}: expected finite numbers") from e


def check_not_negative(key: str, array: np.ndarray) -> None:
    if (array < 0).any():
        raise ValueError(f"{key}: expected numbers from 0, got {array.min()}")
