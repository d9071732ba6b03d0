"""Fingerprints: SHA-256 of all that decides the values of features."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def frames_fingerprint(config: dict[str, Any], weights_sha256: str | None, stats_sha256: str | None) -> str:
    """Identifies frames by a configuration as hlfeat.yaml has it, its output aside, and the contents of other files."""
    what = {key: value for key, value in config.items() if key not in ("description", "output")}
    return _digest(what, weights_sha256, stats_sha256)


def _digest(what: dict[str, Any], weights_sha256: str | None, stats_sha256: str | None) -> str:
    told = {"config": what, "weights": weights_sha256}
    if stats_sha256 is not None:
        told["stats"] = stats_sha256
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
