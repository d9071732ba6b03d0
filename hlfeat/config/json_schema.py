"""JSON Schema (draft 2020-12) of the configuration, for editors that complete and check YAML.

Made from the models of hlfeat/config/. JSON Schema has no words for what compares two numbers (min_freq and max_freq,
groups and filters): that is left to `hlfeat config check`.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hlfeat.config.base import ODD, pair_schema
from hlfeat.config.config import Config

Schema = dict[str, Any]
SCHEMA_FILE = "hlfeat.schema.json"  # beside the shipped configurations
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _given(key: str, kind: str) -> Schema:
    """A mapping that has the key, with a value of this type (null stands for a default)."""
    return {"required": [key], "properties": {key: {"type": kind}}}


def _only_with(key: str, other: str, value: str) -> Schema:
    return {"if": _given(key, "number"), "then": {"required": [other], "properties": {other: {"const": value}}}}


# What the models' own checks across keys say, where JSON Schema can say it too.
LOG_SCALE = {
    "if": {"required": ["scale"], "properties": {"scale": {"const": "log"}}},
    "then": {"properties": {"min_freq": {"exclusiveMinimum": 0}}},
}
TOP = Config.model_fields["frontend"].default.max_freq  # not given, or as good as not given
INSTEAD_OF_TOP = {"if": _given("filters_per_octave", "number"), "then": {"properties": {"max_freq": {"const": TOP}}}}
FILTERS = [LOG_SCALE, _only_with("filters_per_octave", "scale", "log"), INSTEAD_OF_TOP]
RULES: dict[str, Schema] = {
    "EleafConfig": {"allOf": FILTERS},
    "LeafConfig": {"allOf": FILTERS},
    "HarmonicConfig": {
        "not": {"allOf": [_given("anchor", "integer"), _given("anchors", "array")]},
        **_only_with("bins_per_octave", "axis", "log"),
    },
    "ConvConfig": {"properties": {"kernel": pair_schema(ODD, ODD)}},
}
MUST_SAY = {
    "layer": (
        "HarmonicConfig",
        "ConvConfig",
        "NormConfig",
        "ActivationConfig",
        "PoolConfig",
        "ProjectionConfig",
        "ResidualConfig",
    ),
    "kind": (
        "LeafConfig",
        "LogMelConfig",
        "SpectrogramConfig",
        "LogTBNConfig",
        "PCENConfig",
    ),  # a frontend that says no kind is eleaf
}


def schema() -> Schema:
    """The schema as plain data."""
    found = copy.deepcopy(Config.model_json_schema())
    parts = found["$defs"]
    for key, names in MUST_SAY.items():
        for name in names:
            parts[name]["required"] = [key, *parts[name].get("required", [])]
    for name, rules in RULES.items():
        for key, rule in rules.items():
            if key == "properties":
                for field, more in rule.items():
                    kept = {
                        k: v for k, v in parts[name]["properties"][field].items() if k in ("default", "description")
                    }
                    parts[name]["properties"][field] = {**more, **kept}
            else:
                parts[name][key] = rule
    found = _tidy(found)
    return {"$schema": DIALECT, **found, "title": "hlfeat configuration"}


def schema_text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _tidy(node: Any) -> Any:
    """Without what pydantic adds for other readers: titles that repeat the key, and OpenAPI's discriminator.

    The shorthand `compression: pcen` becomes one of the choices.
    """
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    choices = node.get("discriminator", {}).get("mapping", {}) if isinstance(node.get("discriminator"), dict) else {}
    tidy = {k: _tidy(v) for k, v in node.items() if k != "discriminator" and not (k == "title" and isinstance(v, str))}
    if "pcen" in choices:
        tidy["oneOf"] = [{"enum": sorted(choices)}, *tidy["oneOf"]]
    return tidy
