"""A run's hlfeat.yaml as a configuration: which file is one, and what of it is the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hlfeat.config.yaml12 import YamlDocument, read_yaml
from hlfeat.errors import ConfigError

_CONFIG, _SIGNS = "config", ("fingerprint", "features")  # the key, and others that every run writes beside it
_FILES = ("weights", "stats")  # that a run was given beside its configuration


def is_of_run(data: object) -> bool:
    """Whether a YAML file's data is what a run writes."""
    return isinstance(data, dict) and isinstance(data.get(_CONFIG), dict) and all(key in data for key in _SIGNS)


def configuration_of_run(document: YamlDocument) -> YamlDocument:
    """The configuration in a run's file, its keys on the lines that they have there."""
    lines = {key[1:]: line for key, line in document.lines.items() if key[:1] == (_CONFIG,)}
    return YamlDocument(document.data[_CONFIG], lines)


def files_of_run(name: str) -> dict[str, str]:
    """The weights and statistics that a run was given, by their key; none for other files, and for names."""
    path = Path(name)
    if not path.is_file():
        return {}
    try:
        data: Any = read_yaml(path.read_text(encoding="utf-8"), name).data
    except (OSError, ValueError, ConfigError):  # reading the configuration says what is wrong
        return {}
    if not is_of_run(data):
        return {}
    files = {key: data.get(key) for key in _FILES}
    return {key: str(file["path"]) for key, file in files.items() if isinstance(file, dict) and "path" in file}
