"""JSON Schema (draft 2020-12) of the configuration, for editors that complete and check YAML.

Made from the models of hlfeat/config/ and their `schema_rules`. JSON Schema cannot compare two numbers (min_freq and
max_freq, groups and filters): only `hlfeat config check` does.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hlfeat.config.base import StrictModel, models_in, tag_key
from hlfeat.config.config import Config
from hlfeat.config.frontends import DEFAULT_FRONTEND

Schema = dict[str, Any]
SCHEMA_FILE = "hlfeat.schema.json"  # beside the shipped configurations
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> Schema:
    """The schema as plain data."""
    data = copy.deepcopy(Config.model_json_schema())
    for model in _models_below(Config):
        part = data["$defs"][model.__name__]
        key = tag_key(model)
        if key is not None and model is not DEFAULT_FRONTEND:
            part["required"] = [key, *part.get("required", [])]
        part.update(model.schema_rules)
    data["description"] = data["description"].splitlines()[0]
    return {"$schema": DIALECT, **_tidy(data), "title": "hlfeat configuration"}


def _models_below(model: type[StrictModel]) -> set[type[StrictModel]]:
    """The classes of all parts of a configuration."""
    below: set[type[StrictModel]] = set()
    waiting = [model]
    while waiting:
        parts = {m for field in waiting.pop().model_fields.values() for m in models_in(field.annotation)}
        waiting += parts - below
        below |= parts
    return below


def schema_text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _tidy(node: Any) -> Any:
    """Remove titles, which repeat the key, and OpenAPI's discriminator; add the shorthand `compression: pcen`."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    choices = node.get("discriminator", {}).get("mapping", {}) if isinstance(node.get("discriminator"), dict) else {}
    tidy = {k: _tidy(v) for k, v in node.items() if k != "discriminator" and not (k == "title" and isinstance(v, str))}
    if "pcen" in choices:
        tidy["oneOf"] = [{"enum": sorted(choices)}, *tidy["oneOf"]]
    return tidy
