"""hlfeat.yaml: reading it, and comparing it with a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hlfeat.errors import OutputError

FILES = {"weights": "the weights", "stats": "the statistics"}  # keys of hlfeat.yaml: other files, by their SHA-256


def read_description(folder: Path) -> dict[str, Any]:
    """hlfeat.yaml of a feature directory."""
    path = folder / "hlfeat.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise OutputError(f"{folder}: not a feature directory: there is no hlfeat.yaml in it") from e
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise OutputError(f"{path}: damaged: {' '.join(str(e).split())}") from e
    if not isinstance(description, dict) or not all(isinstance(description.get(key) or {}, dict) for key in FILES):
        raise OutputError(f"{path}: damaged: not what a run writes")
    return description


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Dotted names of the settings in which two descriptions differ."""
    found = []

    def compare(x: Any, y: Any, key: str) -> None:
        if isinstance(x, dict) and isinstance(y, dict):
            for name in dict.fromkeys([*x, *y]):
                compare(x.get(name), y.get(name), f"{key}.{name}" if key else str(name))
        elif x != y:
            found.append(key)

    compare(a.get("config"), b.get("config"), "")
    files = [name for key, name in FILES.items() if _sha256(a, key) != _sha256(b, key)]
    return [k for k in found if k != "description"] + files


def _sha256(description: dict[str, Any], key: str) -> Any:
    return (description.get(key) or {}).get("sha256")
