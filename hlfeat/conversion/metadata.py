"""Columns of a manifest that other formats have a place of their own for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# Names that a column may have; the first that a clip has a value of is taken.
SPEAKER = ("speaker", "speaker_id", "spk")
TEXT = ("text", "transcript", "transcription", "sentence")
LANGUAGE = ("language", "lang")
GENDER = ("gender", "sex")


def first_of(meta: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, str] | None:
    """Name and value, as text, of the first of these columns that has one."""
    for name in names:
        value = meta.get(name)
        if value not in (None, ""):
            return name, as_text(value)
    return None


def as_text(value: Any) -> str:
    """A value of a column as text: nothing for none, and JSON for what is no text."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
