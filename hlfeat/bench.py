"""Measuring: candidates take turns, medians are compared, and a GPU is waited for before and after.

Single times of a shared machine mean little; ratios within one run do. Memory is the peak beyond what was held before:
the allocator's on a GPU, the process's resident set on Linux.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from hlfeat.report import device_name, versions

Row = dict[str, Any]


def race(
    candidates: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, least: int = 3
) -> dict[str, list[float]]:
    """Seconds of each candidate's runs; they run in turn, so that a change of the machine's mood meets all alike.

    The first lap warms up and is not counted, but for a candidate that takes longer than `seconds`: it runs once.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    slow: set[str] = set()
    end = 0.0
    for lap in range(-1, 1000):
        for name in [n for n in candidates if n not in slow]:
            synchronize(device)
            start = time.perf_counter()
            candidates[name]()
            synchronize(device)
            spent = time.perf_counter() - start
            if lap < 0 and spent > seconds:
                slow.add(name)
            if lap >= 0 or name in slow:
                taken[name].append(spent)
        if lap < 0:
            end = time.perf_counter() + seconds
        elif lap + 1 >= least and time.perf_counter() > end:
            break
    return taken


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Most memory in use during a call beyond what was in use before; None where that cannot be told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark falls to what is resident now
        before = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def circumstances(device: torch.device) -> Row:
    """What a figure depends on and a reader has to know."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None  # not a checkout
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return {"device": device_name(device), "date": date, "commit": commit, "versions": versions()}


def markdown(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """A table: `columns` maps the keys of the rows to (heading) and a format, as in {"ms": "forward, ms|.2f"}."""
    heads = [c.partition("|")[0] for c in columns.values()]
    formats = [c.partition("|")[2] for c in columns.values()]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        values = [row.get(key) for key in columns]
        lines.append(["" if v is None else format(v, f) for v, f in zip(values, formats, strict=True)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_json(path: Path, what: str, device: torch.device, rows: Sequence[Row]) -> None:
    """Rows and circumstances, for programs."""
    path.write_text(json.dumps({"bench": what, **circumstances(device), "rows": list(rows)}, indent=1) + "\n")
