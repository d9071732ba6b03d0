"""What is wrong with a configuration, in one line: file, line, key, what was expected, what came."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hlfeat.config.base import StrictModel, models_in, tag_key, tag_of
from hlfeat.config.config import Config
from hlfeat.config.yaml12 import Key, dotted
from hlfeat.text import nearest, shown


def explain(error: Mapping[str, Any], data: dict[str, Any], places: Mapping[Key, str], source: str) -> str:
    """One line: file:line: key: what was expected, what came."""
    key, error_type, context = locate(error["loc"]), error["type"], error.get("ctx", {})
    message = str(context["error"]) if error_type == "value_error" else ""
    inner = re.match(r"([\w.]+): (.*)", message)
    if inner:  # a check across keys names the key it means
        key, message = (*key, *inner[1].split(".")), inner[2]
    place = place_of(places, key, source)
    value = error.get("input")
    if error_type == "extra_forbidden":
        fields = fields_at(key[:-1], data)
        message = f"unknown key{nearest(str(key[-1]), fields)}; expected {', '.join(fields)}"
        if place.startswith("override "):
            place = f"override {dotted(key)}"
    elif error_type in ("union_tag_invalid", "literal_error"):
        message = _unknown_word(value, context)
        if error_type == "union_tag_invalid":
            key = (*key, str(context["discriminator"]).strip("'"))
    elif not message:
        message = _wrong_type(error, value, context)
    place = place_of(places, key, place)
    return f"{place}: {dotted(key)}: {message}" if key else f"{place}: {message}"


def _unknown_word(value: object, context: Mapping[str, Any]) -> str:
    """A word that is none of those that are expected."""
    expected = str(context.get("expected_tags") or context.get("expected")).replace("'", "")
    word = context.get("tag", value)
    return f"expected {expected}, got {shown(word)}{nearest(str(word), re.split(r', | or ', expected))}"


def _wrong_type(error: Mapping[str, Any], value: object, context: Mapping[str, Any]) -> str:
    """A value of another type or range, or none."""
    error_type = error["type"]
    if error_type == "missing":
        return "missing, and it has no default"
    if error_type == "union_tag_not_found":
        discriminator = str(context["discriminator"]).strip("'")
        return f"expected a mapping with the key {discriminator}, got {kind_of(value)}"
    if error_type in ("model_type", "model_attributes_type", "dict_type"):
        return f"expected a mapping of keys to values, got {kind_of(value)}"
    return f"{_expected(error_type, context) or 'expected ' + error['msg']}, got {kind_of(value)}"


def parse_key(dotted: str) -> list[str | int]:
    """frontend.n_filters, stack.0.kernel: numbers count through lists."""
    return [int(p) if re.fullmatch("[0-9]{1,6}", p) else p for p in dotted.split(".")]


def place_of(places: Mapping[Key, str], key: Key, otherwise: str) -> str:
    """Where a key stands, or the nearest key above it."""
    return next((places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in places), otherwise)


def _expected(error_type: str, ctx: Mapping[str, Any]) -> str:
    """The range or the type that pydantic expected, in words; "" for what has none."""
    if "ge" in ctx or "gt" in ctx or "le" in ctx or "lt" in ctx:
        words = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        return "expected a number " + " and ".join(f"{words[k]} {v:g}" for k, v in ctx.items() if k in words)
    words = {
        "int": "a whole number",
        "float": "a number",
        "finite": "a finite number",
        "bool": "true or false",
        "string": "text",
        "tuple": "a list",
        "too": f"at least {ctx.get('min_length')} item",
    }
    word = words.get(error_type.split("_")[0])
    return f"expected {word}" if word else ""


def locate(loc: Sequence[str | int]) -> Key:
    """The key path of an error. pydantic puts the tag of a union's class after its key; the data has no such key."""
    key: list[str | int] = []
    choices: list[type[StrictModel]] = [Config]
    for part in loc:
        by_tag = {tag_of(model): model for model in choices}
        if len(choices) > 1 and part in by_tag:
            choices = [by_tag[str(part)]]
            continue
        key.append(part)
        if isinstance(part, str):
            choices = _models_of_field(choices, part)
    return tuple(key)


def fields_at(key: Key, data: Any) -> list[str]:
    """Names of the keys that are valid at a place in the data."""
    choices: list[type[StrictModel]] = [Config]
    for name in key:
        data = data[name]
        if isinstance(name, str):
            choices = _models_of_field(choices, name)
        if isinstance(data, Mapping):
            choices = [next((m for m in choices if (k := tag_key(m)) and tag_of(m) == data.get(k)), choices[0])]
    return list(choices[0].model_fields)


def _models_of_field(choices: Sequence[type[StrictModel]], name: str) -> list[type[StrictModel]]:
    """The classes that a field's value, or an item of it, may have."""
    field = choices[0].model_fields.get(name) if choices else None
    return models_in(field.annotation) if field else []


def kind_of(value: object) -> str:
    """A value in an error message: what sort of collection it is, or itself."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else shown(value)
