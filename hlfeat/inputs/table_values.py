"""Values of a Parquet table as JSON has them: metadata of clips.

Numbers, texts, truths, lists and structs stay what they are; maps become structs. Dates and times are texts (ISO 8601),
durations seconds, decimal numbers texts with all their digits. NaN and Infinity, which are no JSON, become null.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

MOST_TEXT = 1 << 16  # characters of a text
MOST_VALUES = 1000  # in lists and structs in one another


class TooLargeError(ValueError):
    """A value is too large to be metadata."""


def has_bytes(kind: Any) -> bool:
    """Whether a type of Arrow has bytes in it, at any depth: audio, pictures, pickles."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return has_bytes(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return has_bytes(kind.storage_type)
    if types.is_nested(kind):
        return any(has_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def json_values(array: Any) -> list[Any]:
    """The values of a column of Arrow. What is too large is a TooLargeError, what Python cannot hold is None."""
    from pyarrow.types import is_map

    array = _in_microseconds(array)
    try:
        values: Iterable[Any] = array.to_pylist()
    except (ValueError, OverflowError):  # one of them is a date after the year 9999, or a text that is not UTF-8
        values = [_value_of(scalar) for scalar in array]
    if is_map(array.type):  # an empty one is told from an empty list by the type alone
        values = [{} if value == [] else value for value in values]
    return [value if type(value) is str and len(value) <= MOST_TEXT else _as_json(value) for value in values]


def _value_of(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return None


def _in_microseconds(array: Any) -> Any:
    """Python's times have no nanoseconds: what is below a microsecond is left out.

    Where Python does not know the time zone (a container without `tzdata`), times are in UTC.
    """
    kind = _coarser(array.type)
    return array if kind == array.type else array.cast(kind, safe=False)


def _coarser(kind: Any) -> Any:
    import pyarrow as pa

    types = pa.types
    if types.is_timestamp(kind):
        return pa.timestamp("us" if kind.unit == "ns" else kind.unit, _known_zone(kind.tz))
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([field.with_type(_coarser(field.type)) for field in fields])
    if types.is_map(kind):
        return pa.map_(_coarser(kind.key_type), _coarser(kind.item_type), keys_sorted=kind.keys_sorted)
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_coarser(kind.value_type)))
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_coarser(kind.value_type)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_coarser(kind.value_type)), kind.list_size)
    return kind


@lru_cache(maxsize=64)
def _known_zone(name: str | None) -> str | None:
    import pyarrow as pa

    try:
        return None if name is None or pa.lib.string_to_tzinfo(name) is None else name
    except Exception:  # of zoneinfo, pytz or Arrow, whichever is asked
        return "+00:00"


def _as_json(value: Any) -> Any:
    """The value; or a TooLargeError, which is returned, as one value of many is no reason to end."""
    try:
        return _plain(value, [MOST_VALUES])
    except TooLargeError as e:
        return e


def _plain(value: Any, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise TooLargeError(f"more than {MOST_VALUES} values")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        if len(value) > MOST_TEXT:
            raise TooLargeError(f"a text of {len(value)} characters")
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item, left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # a map
            return {str(key): _plain(item, left) for key, item in value}
        return [_plain(item, left) for item in value]
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    return str(value)  # a decimal number, a UUID


def without_large(names: Sequence[str], values: Sequence[Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The names and values of a row, but those that are too large."""
    kept = [(name, value) for name, value in zip(names, values, strict=True) if not isinstance(value, TooLargeError)]
    return tuple(name for name, _ in kept), tuple(value for _, value in kept)
