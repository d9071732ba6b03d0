"""Configuration files: load by name or path, override, and explain what is wrong in one line.

An unknown key, a wrong type or an impossible value is an error with file, line, key, what was expected and the nearest
valid name. Only plain data is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hlfeat.config.config import Config
from hlfeat.config.messages import explain, kind_of, parse_key, place_of
from hlfeat.config.yaml12 import Key, Yaml12Dumper, dotted, read_yaml
from hlfeat.errors import ConfigError, LayerError
from hlfeat.text import nearest

DEFAULT_CONFIG = "eleaf-8g-opt"


def load_config(name: str | Path = DEFAULT_CONFIG, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration by name or path, apply `key.path=value` overrides, check everything.

    Raises ConfigError with file, line, key, what was expected and the nearest valid name.
    """
    path = find_config(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"{path}: cannot be read: {getattr(e, 'strerror', None) or 'not a text file in UTF-8'}"
        ) from e
    data, lines = _parse(text, str(path))
    places: dict[Key, str] = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        _override(data, override, places)
    return _validate(data, places, str(path))


@contextmanager
def explained(name: str | Path, overrides: Iterable[str] = ()) -> Iterator[None]:
    """Say where in the file, or in which override, an impossible layer stands when building modules fails."""
    try:
        yield
    except LayerError as e:
        path = find_config(name)
        _, lines = _parse(path.read_text(encoding="utf-8"), str(path))
        places = {key: f"{path}:{line}" for key, line in lines.items()}
        for override in overrides:
            places[tuple(parse_key(override.partition("=")[0]))] = f"override {override}"
        raise ConfigError(f"{place_of(places, e.key, str(path))}: {e}") from e


def config_from_dict(data: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "configuration") -> Config:
    """Check a configuration that is already plain data; `source` stands in messages where a file's name would."""
    own, places = copy.deepcopy(dict(data)), dict[Key, str]()
    for override in overrides:
        _override(own, override, places)
    return _validate(own, places, source)


def config_dir() -> Path:
    """Where the named configurations are: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Names of the shipped configurations."""
    return sorted(p.stem for p in config_dir().glob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """The file that a name or a path means."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise ConfigError(f"{name}: no such configuration file")
        return path
    shipped = config_dir() / f"{name}.yaml"
    if not shipped.is_file():
        names = config_names()
        raise ConfigError(f"{name}: no such configuration{nearest(str(name), names)}; there are {', '.join(names)}")
    return shipped


def dump_config(config: Config) -> str:
    """The configuration with every default written out, as YAML."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=Yaml12Dumper, sort_keys=False, allow_unicode=True)


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """The keys and values of a file, and the line of each key."""
    data, lines = read_yaml(text, source)
    if data is None and "null" not in text and "~" not in text:  # an empty file, or one of comments
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}:1: expected keys such as audio, frontend, stack, output; got {kind_of(data)}")
    return data, lines


def _override(data: dict[str, Any], override: str, places: dict[Key, str]) -> None:
    """Apply `frontend.n_filters=64`; a number in the path counts through a list."""
    name, equals, text = override.partition("=")
    source = f"override {override}"
    if not equals or not name:
        raise ConfigError(f"{source}: expected key=value, such as frontend.n_filters=64")
    value = read_yaml(text, source)[0]
    parts = parse_key(name)
    at: Any = data
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(at, list):
            if not isinstance(part, int) or part >= len(at):
                found = f"items 0 to {len(at) - 1}" if at else "no items"
                raise ConfigError(f"{source}: {dotted(parts[:i])} has {found}, got {part}")
        elif isinstance(at, dict):
            part = str(part)
            if not last and not isinstance(at.get(part), dict | list):
                # a shorthand such as `compression: pcen` gives way to its keys
                empty: Any = [] if isinstance(parts[i + 1], int) else {}
                at[part] = {"kind": at[part]} if isinstance(at.get(part), str) else empty
        else:
            raise ConfigError(f"{source}: {dotted(parts[:i])} is {kind_of(at)} and has no key {part}")
        places[tuple(parts[: i + 1])] = source
        if last:
            at[part] = value
        else:
            at = at[part]


def _validate(data: dict[str, Any], places: Mapping[Key, str], source: str) -> Config:
    try:
        return Config.model_validate(data)
    except ValidationError as e:
        errors = e.errors()
        rest = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConfigError(explain(errors[0], data, places, source) + rest) from None
