"""Reading and writing YAML: plain data only, YAML 1.2's numbers, and the line of every key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hlfeat.errors import ConfigError


class Yaml12Loader(yaml.SafeLoader):
    """Plain data only, 1e-3 is a number, and a key given twice is an error."""


# YAML 1.2's numbers instead of 1.1's: 1e-3 is one, 010 is ten and 1:30 is no number of seconds.
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
Yaml12Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
Yaml12Loader.add_constructor(_INT, lambda loader, node: int(str(node.value)))


class Yaml12Dumper(yaml.SafeDumper):
    """Writes what Yaml12Loader reads back unchanged: text that looks like one of its numbers is quoted."""


Yaml12Dumper.yaml_implicit_resolvers = Yaml12Loader.yaml_implicit_resolvers


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text, in double quotes if it has one of Unicode's line breaks, which YAML would read back as a newline."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Yaml12Dumper.add_representer(str, _represent_text)

Key = tuple[str | int, ...]


def one_line(value: Any) -> str:
    """Plain data as YAML on one line."""
    for style in (None, '"'):  # text of several lines fits on one in double quotes only
        text = (
            yaml.dump(
                value,
                Dumper=Yaml12Dumper,
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


@dataclass(frozen=True)
class YamlDocument:
    """What a YAML file holds, and where.

    Args:
        data: plain data.
        lines: the line of each key and item, from 1; that of () is the document's.
    """

    data: Any
    lines: Mapping[Key, int]

    def places(self, source: str) -> dict[Key, str]:
        """FILE:LINE of each key."""
        return {key: f"{source}:{line}" for key, line in self.lines.items()}


def read_yaml(text: str, source: str) -> YamlDocument:
    """Parse once; `source` is the file's name in messages.

    Raises:
        ConfigError: what is no YAML, or not plain data, with its line; a key that is given twice.
    """
    try:
        loader = Yaml12Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[Key, int] = {(): 1}
            if node is not None:
                _walk(node, (), lines, source)
            return YamlDocument(None if node is None else loader.construct_document(node), lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise ConfigError(f"{source}:{line}: not valid YAML: {e.problem or e.context}") from e
    except yaml.YAMLError as e:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(e).split())}") from e
    except RecursionError as e:
        raise ConfigError(f"{source}:1: not valid YAML: it refers to itself, or is nested too deep") from e
    except (
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        OverflowError,
    ) as e:  # month 13, `!!bool maybe`
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(e).split())}") from e


def _walk(node: yaml.Node, key: Key, lines: dict[Key, int], source: str) -> None:
    """Record the line of every key and item below a node."""
    if len(lines) > 10000:  # aliases of aliases of aliases grow without bound
        raise ConfigError(f"{source}:1: expected a configuration of at most 10000 keys and items")
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, str(name.value))
            if inner in lines:
                raise ConfigError(f"{source}:{name.start_mark.line + 1}: {dotted(inner)}: given twice")
            lines[inner] = name.start_mark.line + 1
            _walk(value, inner, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*key, i)] = value.start_mark.line + 1
            _walk(value, (*key, i), lines, source)


def dotted(key: Sequence[str | int]) -> str:
    """A key path as people write it: stack.0.kernel."""
    return ".".join(map(str, key))
