"""Which column of a table is that of audio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hlfeat.errors import UsageError
from hlfeat.inputs.base import Argument, Origin
from hlfeat.text import escape_unprintable, nearest

_MOST_SHOWN = 12  # columns in a message


def audio_column_of(schema: Any, argument: Argument) -> str | None:
    """The name of the column of audio; None for a table of a folder that has none.

    Raises UsageError where that is not clear, or the column cannot be one of audio.
    """
    path, wanted = escape_unprintable(argument.path), argument.reading.audio_column
    in_folder = argument.origin is Origin.FOLDER
    if wanted is None:
        columns = _columns_that_look_like_audio(schema)
        if len(columns) == 1:
            return columns[0]
        if not columns and in_folder:
            return None
        message = f"{path}: expected a column of audio, got {_listed(schema)}"
        if columns:
            message = f"{path}: expected one column of audio, got {escape_unprintable(' and '.join(columns[:3]))}"
        raise UsageError(message, remedy="audio_column")
    fields = [field for field in schema if field.name == wanted]
    if not fields and in_folder:
        return None
    if len(fields) != 1:
        got = f"{len(fields)} of them" if fields else _listed(schema) + nearest(wanted, schema.names)
        raise UsageError(f"audio_column: {path}: expected a column {escape_unprintable(wanted)}, got {got}")
    if not _may_be_audio(fields[0].type):
        raise UsageError(
            f"audio_column: {path}: expected {escape_unprintable(wanted)} to be bytes, paths, or a struct of bytes and "
            f"path, got {_kind(fields[0].type)}"
        )
    return wanted


def _columns_that_look_like_audio(schema: Any) -> list[str]:
    """Those that Hugging Face's description calls Audio; or structs of bytes and path that it does not call otherwise,
    such as Image."""
    features: Mapping[str, Any] = {}
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        types = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        types = {}
    described = [field.name for field in schema if types.get(field.name) == "Audio" and _may_be_audio(field.type)]
    return described or [
        field.name
        for field in schema
        if field.name not in types and _is_struct_of(field.type, "bytes", "path") and _may_be_audio(field.type)
    ]


def _is_struct_of(kind: Any, *names: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) and all(kind.get_field_index(name) >= 0 for name in names)


def _may_be_audio(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        texts, data = fields.get("path"), fields.get("bytes")
        return (
            (texts is not None or data is not None)
            and (texts is None or is_text(texts))
            and (data is None or _is_binary(data))
        )
    return _is_binary(kind) or is_text(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _kind(kind: Any) -> str:
    text = str(kind)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(schema: Any) -> str:
    """The columns of a table, with their types."""
    shown = ", ".join(f"{field.name} ({_kind(field.type)})" for field in list(schema)[:_MOST_SHOWN])
    more = len(schema) - _MOST_SHOWN
    return escape_unprintable(f"the columns {shown}" if shown else "no columns") + (
        f", ... {more} more" if more > 0 else ""
    )
