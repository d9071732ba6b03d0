"""How to run, as opposed to what to compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hlfeat.partition import WHOLE, Part


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what to compute: none of these changes a clip's features beyond rounding."""

    device: str = "auto"
    batch_seconds: float = 64.0
    workers: int = 2
    on_error: str = "skip"
    max_failures: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    update: bool = False
    part: Part = WHOLE
    quiet: bool = False
    weights: Path | None = None
    stats: Path | None = None
    keep: bool = True  # the features; without them, there are index, statistics and failures only
