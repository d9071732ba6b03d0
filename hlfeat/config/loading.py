"""Configuration files: find by name or path, load, override, and write again.

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
from hlfeat.config.run_file import configuration_of_run, is_of_run
from hlfeat.config.yaml12 import Key, Yaml12Dumper, YamlDocument, dotted, read_yaml
from hlfeat.errors import ConfigError, LayerError
from hlfeat.text import nearest

DEFAULT_CONFIG = "eleaf-8g-opt"


def load_config(name: str | Path = DEFAULT_CONFIG, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration, apply overrides, check everything.

    Args:
        name: a shipped configuration (see `config_names`), or the path of a YAML file; of the hlfeat.yaml that a run
            has written, its configuration is taken.
        overrides: `key.path=value`, such as `frontend.n_filters=64` or `stack.0.kernel=[5, 3]`.

    Returns:
        A frozen Config with all defaults filled in.

    Raises:
        ConfigError: names the file, line and key, what was expected and the nearest valid name.

    Example:
        >>> from hlfeat import load_config
        >>> config = load_config("log-mel", ["frontend.n_filters=64"])
        >>> config.frontend.kind, config.frontend.n_filters, config.audio.sample_rate
        ('log-mel', 64, 16000)
    """
    path = find_config(name)
    document = _read(path)
    places = document.places(str(path))
    for override in overrides:
        _override(document.data, override, places)
    return _validate(document.data, places, str(path))


@contextmanager
def explained(name: str | Path, overrides: Iterable[str] = ()) -> Iterator[None]:
    """Add the file and line, or the override, to the error of a layer that cannot be built.

    Raises:
        ConfigError: in place of a LayerError from the block.
    """
    try:
        yield
    except LayerError as e:
        path = find_config(name)
        places = _read(path).places(str(path))
        for override in overrides:
            places[tuple(parse_key(override.partition("=")[0]))] = f"override {override}"
        raise ConfigError(f"{place_of(places, e.key, str(path))}: {e}") from e


def config_from_dict(data: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "configuration") -> Config:
    """Check a configuration that is already plain data.

    Args:
        data: keys and values, as in a YAML file; stays as it is.
        overrides: `key.path=value`.
        source: stands in messages in place of a file's name.

    Raises:
        ConfigError: as load_config.
    """
    copied, places = copy.deepcopy(dict(data)), dict[Key, str]()
    for override in overrides:
        _override(copied, override, places)
    return _validate(copied, places, source)


def config_dir() -> Path:
    """The folder of the shipped configurations: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Names of the shipped configurations, sorted.

    Example:
        >>> from hlfeat.config.loading import config_names
        >>> "log-mel" in config_names()
        True
    """
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
    """The configuration with every default written out, as YAML, which `load_config` reads again.

    Args:
        config: what `load_config` or `Config` made.

    >>> from hlfeat import load_config
    >>> "n_filters: 80" in dump_config(load_config("log-mel"))
    True
    """
    return yaml.dump(config.model_dump(mode="json"), Dumper=Yaml12Dumper, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> YamlDocument:
    """A configuration file: its keys and values, and the line of each key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"{path}: cannot be read: {getattr(e, 'strerror', None) or 'not a text file in UTF-8'}"
        ) from e
    document = read_yaml(text, str(path))
    if document.data is None and "null" not in text and "~" not in text:  # an empty file, or one of comments
        return YamlDocument({}, document.lines)
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{path}:1: expected keys such as audio, frontend, stack, output; got {kind_of(document.data)}"
        )
    return configuration_of_run(document) if is_of_run(document.data) else document


def _override(data: dict[str, Any], override: str, places: dict[Key, str]) -> None:
    """Apply `frontend.n_filters=64`; a number in the path counts through a list."""
    name, equals, text = override.partition("=")
    source = f"override {override}"
    if not equals or not name:
        raise ConfigError(f"{source}: expected key=value, such as frontend.n_filters=64")
    value = read_yaml(text, source).data
    parts = parse_key(name)
    node: Any = data
    for depth, part in enumerate(parts):
        key: str | int = part if isinstance(node, list) else str(part)
        _check_step(node, key, dotted(parts[:depth]), source)
        places[tuple(parts[: depth + 1])] = source
        if depth == len(parts) - 1:
            node[key] = value
            return
        if isinstance(node, dict) and not isinstance(node.get(key), dict | list):
            # a shorthand such as `compression: pcen` is written out, so that its keys can be set
            empty: Any = [] if isinstance(parts[depth + 1], int) else {}
            node[key] = {"kind": node[key]} if isinstance(node.get(key), str) else empty
        node = node[key]


def _check_step(node: object, key: str | int, place: str, source: str) -> None:
    """ConfigError where a list or mapping, at `place` in the data, has no such item, or a value has no keys."""
    if isinstance(node, list):
        if not isinstance(key, int) or key >= len(node):
            items = f"items 0 to {len(node) - 1}" if node else "no items"
            raise ConfigError(f"{source}: {place} has {items}, got {key}")
    elif not isinstance(node, dict):
        raise ConfigError(f"{source}: {place} is {kind_of(node)} and has no key {key}")


def _validate(data: dict[str, Any], places: Mapping[Key, str], source: str) -> Config:
    try:
        return Config.model_validate(data)
    except ValidationError as e:
        errors = e.errors()
        rest = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConfigError(explain(errors[0], data, places, source) + rest) from None
