"""Configuration files: load by name or path, override, and explain what is wrong in one line.

An unknown key, a wrong type or an impossible value is an error with file, line, key, what was expected and the nearest
valid name. Only plain data is loaded.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hlfeat import config as c
from hlfeat.config import Config, nearest, shown
from hlfeat.errors import ConfigError, LayerError

DEFAULT_CONFIG = "eleaf-8g-opt"


class _Loader(yaml.SafeLoader):
    """Plain data only, 1e-3 is a number, and a key given twice is an error."""


# YAML 1.2's numbers instead of 1.1's: 1e-3 is one, 010 is ten and 1:30 is no number of seconds.
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
_Loader.add_constructor(_INT, lambda loader, node: int(str(node.value)))


class _Dumper(yaml.SafeDumper):
    """What `_Loader` reads back as it was: it quotes text that would be a number there."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

Key = tuple[str | int, ...]


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
            places[tuple(_key(override.partition("=")[0]))] = f"--set {override}"
        raise ConfigError(f"{_place(places, e.key, str(path))}: {e}") from e


def config_from_dict(data: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "configuration") -> Config:
    """Check a configuration that is already plain data; `source` stands in messages where a file's name would."""
    own, places = copy.deepcopy(dict(data)), dict[Key, str]()
    for override in overrides:
        _override(own, override, places)
    return _validate(own, places, source)


def config_dir() -> Path:
    """Where the named configurations are: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
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
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def one_line(value: Any) -> str:
    """Plain data as YAML on one line."""
    for style in (None, '"'):  # text of several lines has to be quoted so
        text = (
            yaml.dump(
                value,
                Dumper=_Dumper,
                default_style=style if isinstance(value, str) else None,
                default_flow_style=True,
                width=math.inf,
                allow_unicode=True,
            )
            .removesuffix("\n...\n")
            .removesuffix("\n")
        )
        if len(text.splitlines()) == 1:
            break
    return text


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """The keys and values of a file, and the line of each key."""
    data, lines = _read(text, source)
    if data is None and "null" not in text and "~" not in text:  # an empty file, or one of comments
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}:1: expected keys such as audio, frontend, stack, output; got {_kind(data)}")
    return data, lines


def _read(text: str, source: str) -> tuple[Any, dict[Key, int]]:
    """Plain data, and the line of each key."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[Key, int] = {(): 1}
            if node is not None:
                _walk(node, (), lines, source)
            return (loader.construct_document(node) if node is not None else None), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise ConfigError(f"{source}:{line}: not valid YAML: {e.problem or e.context}") from e
    except yaml.YAMLError as e:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(e).split())}") from e
    except RecursionError as e:
        raise ConfigError(f"{source}:1: not valid YAML: it refers to itself, or is nested too deep") from e
    except (ValueError, KeyError, AttributeError, IndexError, OverflowError) as e:  # a date in month 13, !!bool maybe
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(e).split())}") from e


def _walk(node: yaml.Node, key: Key, lines: dict[Key, int], source: str) -> None:
    if len(lines) > 10000:  # aliases of aliases of aliases
        raise ConfigError(f"{source}:1: expected a configuration of at most 10000 keys and items")
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, str(name.value))
            if inner in lines:
                raise ConfigError(f"{source}:{name.start_mark.line + 1}: {_dotted(inner)}: given twice")
            lines[inner] = name.start_mark.line + 1
            _walk(value, inner, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*key, i)] = value.start_mark.line + 1
            _walk(value, (*key, i), lines, source)


def _override(data: dict[str, Any], override: str, places: dict[Key, str]) -> None:
    """Apply `frontend.n_filters=64`; a number in the path counts through a list."""
    name, equals, text = override.partition("=")
    source = f"--set {override}"
    if not equals or not name:
        raise ConfigError(f"{source}: expected key=value, such as frontend.n_filters=64")
    value = _read(text, source)[0]
    parts = _key(name)
    at: Any = data
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(at, list):
            if not isinstance(part, int) or part >= len(at):
                found = f"items 0 to {len(at) - 1}" if at else "no items"
                raise ConfigError(f"{source}: {_dotted(parts[:i])} has {found}, got {part}")
        elif isinstance(at, dict):
            part = str(part)
            if not last and not isinstance(at.get(part), dict | list):
                # a shorthand such as `compression: pcen` gives way to its keys
                empty: Any = [] if isinstance(parts[i + 1], int) else {}
                at[part] = {"kind": at[part]} if isinstance(at.get(part), str) else empty
        else:
            raise ConfigError(f"{source}: {_dotted(parts[:i])} is {_kind(at)} and has no key {part}")
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
        raise ConfigError(_explain(errors[0], data, places, source) + rest) from None


def _explain(error: Mapping[str, Any], data: dict[str, Any], places: Mapping[Key, str], source: str) -> str:
    """One line: file:line: key: what was expected, what came."""
    key, model, error_type, context = _locate(error["loc"]), Config, error["type"], error.get("ctx", {})
    message = str(context["error"]) if error_type == "value_error" else ""
    inner = re.match(r"([\w.]+): (.*)", message)
    if inner:  # a check across keys names the key it means
        key, message = (*key, *inner[1].split(".")), inner[2]
    place = _place(places, key, source)
    value = error.get("input")
    if error_type == "extra_forbidden":
        fields = _fields_at(model, key[:-1], data)
        message = f"unknown key{nearest(str(key[-1]), fields)}; expected {', '.join(fields)}"
        if place.startswith("--set"):
            place = f"--set {_dotted(key)}"
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
        message = f"expected a mapping with the key {discriminator}, got {_kind(value)}"
    elif error_type in ("model_type", "model_attributes_type", "dict_type"):
        message = f"expected a mapping of keys to values, got {_kind(value)}"
    elif not message:
        message = f"{_expected(error_type, context) or 'expected ' + error['msg']}, got {_kind(value)}"
    place = _place(places, key, place)
    return f"{place}: {_dotted(key)}: {message}" if key else f"{place}: {message}"


def _key(dotted: str) -> list[str | int]:
    """frontend.n_filters, stack.0.kernel: numbers count through lists."""
    return [int(p) if re.fullmatch("[0-9]{1,6}", p) else p for p in dotted.split(".")]


def _place(places: Mapping[Key, str], key: Key, otherwise: str) -> str:
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


def _locate(loc: Sequence[str | int]) -> Key:
    """The key path of an error; pydantic puts the tag of a union after its key, which is no key of the data."""
    key: list[str | int] = []
    tag_follows = False
    for part in loc:
        if not tag_follows:
            key.append(part)
        tag_follows = not tag_follows and (part in ("frontend", "compression") or isinstance(part, int))
    return tuple(key)


def _fields_at(model: type[BaseModel], key: Key, data: Any) -> list[str]:
    """Names of the keys that are valid at a place in the data."""
    part: type[BaseModel] = model
    tags: dict[str, list[type[BaseModel]]] = {
        "frontend": [c.Eleaf, c.Leaf, c.LogMel, c.Spectrogram],
        "compression": [c.LogTBN, c.PCEN],
    }
    layers: list[type[BaseModel]] = [c.Harmonic, c.Conv, c.Norm, c.Activation, c.Pool, c.Projection, c.Residual]
    at = data
    for name in key:
        at = at[name]
        if isinstance(name, int):
            part = next(m for m in layers if m.model_fields["layer"].default == at.get("layer"))
        elif name in tags:
            part = next((m for m in tags[name] if m.model_fields["kind"].default == at.get("kind")), tags[name][0])
        elif name in ("audio", "output"):
            part = c.Audio if name == "audio" else c.Output
    return list(part.model_fields)


def _dotted(key: Sequence[str | int]) -> str:
    return ".".join(map(str, key))


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else shown(value)
