"""A configuration as commented YAML: every default written out, each field with its description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hlfeat.config.base import StrictModel
from hlfeat.config.config import Config
from hlfeat.config.yaml12 import one_line

WIDEST = 36  # columns; comments are aligned behind values up to this wide


def commented(config: Config) -> str:
    """YAML that loads as the same configuration, with the field's description as a comment on every line."""
    return "\n".join(_mapping(config, "")) + "\n"


def _mapping(part: StrictModel, indent: str) -> Iterator[str]:
    """The lines of a part's fields; `kind` or `layer` comes first."""
    fields = sorted(type(part).model_fields.items(), key=lambda item: item[0] not in ("kind", "layer"))
    defaults = {name: getattr(part, name) for name, _ in fields}  # of keys that a dump leaves out
    plain = {**defaults, **part.model_dump(mode="json")}
    heads = {
        name: f"{indent}{name}:" + ("" if _nested(getattr(part, name)) else f" {one_line(plain[name])}")
        for name, _ in fields
    }
    values = [h for name, h in heads.items() if not _nested(getattr(part, name))]
    column = max((len(h) for h in values if len(h) <= len(indent) + WIDEST), default=0)
    for name, field in fields:
        value = getattr(part, name)
        yield f"{heads[name]:{0 if _nested(value) else column}}  # {field.description}"
        if isinstance(value, StrictModel):
            yield from _mapping(value, indent + "  ")
        elif _nested(value):
            for item in value:
                first, *rest = _mapping(item, indent + "    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from rest


def _nested(value: Any) -> bool:
    """Whether a value is written on lines below its key."""
    return isinstance(value, StrictModel) or (
        isinstance(value, tuple) and any(isinstance(v, StrictModel) for v in value)
    )
