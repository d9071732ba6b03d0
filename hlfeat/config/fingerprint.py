"""Fingerprints: SHA-256 of all that decides the values of features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def frames_fingerprint(config: dict[str, Any], weights_sha256: str | None, stats_sha256: str | None) -> str:
    """Identifies frames by a configuration as hlfeat.yaml has it, its output aside, and the contents of other files."""
    chosen = {key: value for key, value in config.items() if key not in ("description", "output")}
    return digest(chosen, weights_sha256, stats_sha256)


def pitch_fingerprint(features: str, settings: Mapping[str, object]) -> str:
    """Identifies pitch tracks by the fingerprint of the features that they are made of, and how they are made."""
    return hashlib.sha256(json.dumps({"features": features, "pitch": settings}, sort_keys=True).encode()).hexdigest()


def digest(config: dict[str, Any], weights_sha256: str | None, stats_sha256: str | None) -> str:
    content = {"config": config, "weights": weights_sha256}
    if stats_sha256 is not None:
        content["stats"] = stats_sha256
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
