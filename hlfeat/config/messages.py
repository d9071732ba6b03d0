"""What is wrong with a configuration, in one line: file, line, key, what was expected, what came."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from hlfeat.config import config as config_config
from hlfeat.config import frontends as config_frontends
from hlfeat.config import layers as config_layers
from hlfeat.config import output
from hlfeat.config.config import Config
from hlfeat.config.yaml12 import Key, dotted
from hlfeat.text import nearest, shown


def explain(error: Mapping[str, Any], data: dict[str, Any], places: Mapping[Key, str], source: str) -> str:
    """One line: file:line: key: what was expected, what came."""
    key, model, error_type, context = locate(error["loc"]), Config, error["type"], error.get("ctx", {})
    message = str(context["error"]) if error_type == "value_error" else ""
    inner = re.match(r"([\w.]+): (.*)", message)
    if inner:  # a check across keys names the key it means
        key, message = (*key, *inner[1].split(".")), inner[2]
    place = place_of(places, key, source)
    value = error.get("input")
    if error_type == "extra_forbidden":
        fields = fields_at(model, key[:-1], data)
        message = f"unknown key{nearest(str(key[-1]), fields)}; expected {', '.join(fields)}"
        if place.startswith("override "):
            place = f"override {dotted(key)}"
    elif error_type == "missing":
        message = "missing, and it has no default"
    elif error_type in ("union_tag_invalid", "literal_error"):
        expected = str(context.get("expected_tags") or context.get("expected")).replace("'", "")
        got = context.get("tag", value)
        names = re.split(r", | or ", expected)
        message = f"expected {expected}, got {shown(got)}{nearest(str(got), names)}"
        if error_type == "union_tag_invalid":
            key = (*key, str(context["discriminator"]).strip("'"))
    elif error_type == "union_tag_not_found":
        discriminator = str(context["discriminator"]).strip("'")
        message = f"expected a mapping with the key {discriminator}, got {kind_of(value)}"
    elif error_type in ("model_type", "model_attributes_type", "dict_type"):
        message = f"expected a mapping of keys to values, got {kind_of(value)}"
    elif not message:
        message = f"{_expected(error_type, context) or 'expected ' + error['msg']}, got {kind_of(value)}"
    place = place_of(places, key, place)
    return f"{place}: {dotted(key)}: {message}" if key else f"{place}: {message}"


def parse_key(dotted: str) -> list[str | int]:
    """frontend.n_filters, stack.0.kernel: numbers count through lists."""
    return [int(p) if re.fullmatch("[0-9]{1,6}", p) else p for p in dotted.split(".")]


def place_of(places: Mapping[Key, str], key: Key, otherwise: str) -> str:
    """Where a key stands, or the nearest key above it."""
    return next((places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in places), otherwise)


def _expected(error_type: str, ctx: Mapping[str, Any]) -> str:
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
    """The key path of an error; pydantic puts the tag of a union after its key, which is no key of the data."""
    key: list[str | int] = []
    tag_follows = False
    for part in loc:
        if not tag_follows:
            key.append(part)
        tag_follows = not tag_follows and (part in ("frontend", "compression") or isinstance(part, int))
    return tuple(key)


def fields_at(model: type[BaseModel], key: Key, data: Any) -> list[str]:
    """Names of the keys that are valid at a place in the data."""
    part: type[BaseModel] = model
    tags: dict[str, list[type[BaseModel]]] = {
        "frontend": [
            config_frontends.EleafConfig,
            config_frontends.LeafConfig,
            config_frontends.LogMelConfig,
            config_frontends.SpectrogramConfig,
        ],
        "compression": [config_frontends.LogTBNConfig, config_frontends.PCENConfig],
    }
    layers: list[type[BaseModel]] = [
        config_layers.HarmonicConfig,
        config_layers.ConvConfig,
        config_layers.NormConfig,
        config_layers.ActivationConfig,
        config_layers.PoolConfig,
        config_layers.ProjectionConfig,
        config_layers.ResidualConfig,
    ]
    at = data
    for name in key:
        at = at[name]
        if isinstance(name, int):
            part = next(m for m in layers if m.model_fields["layer"].default == at.get("layer"))
        elif name in tags:
            part = next((m for m in tags[name] if m.model_fields["kind"].default == at.get("kind")), tags[name][0])
        elif name in ("audio", "output"):
            part = config_config.AudioConfig if name == "audio" else output.OutputConfig
    return list(part.model_fields)


def kind_of(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else shown(value)
