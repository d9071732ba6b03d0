"""scripts/train.py as a command, and what it writes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.helpers import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command_of(*arguments: object) -> list[str]:
    return list(map(str, [sys.executable, ROOT / "scripts/train.py", *arguments]))


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = command_of(*arguments)
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False)


def table(path: Path, rows: Iterable[tuple[object, ...]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def metrics(out: Path) -> list[dict]:
    """Lines of metrics.jsonl, without times."""
    return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in (out / "metrics.jsonl").open()]
