"""Measuring: candidates take turns, medians are compared, and a GPU is waited for before and after.

Single times of a shared machine mean little; ratios within one run do. Memory is the peak beyond what was held before:
the allocator's on a GPU, the process's resident set on Linux.
"""

from __future__ import annotations

import ctypes
import json
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from hlfeat.errors import OutputError
from hlfeat.report import device_name, versions
from hlfeat.shards import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]


@dataclass
class Runs:
    """What a candidate's runs took: seconds of each, and the peak memory of the first, in bytes."""

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None

    @property
    def typical(self) -> float:
        return median(self.seconds)


def race(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
    least: int = 3,
    patience: float | None = None,
) -> dict[str, Runs]:
    """Runs of each candidate; they run in turn, so that a change of the machine's mood meets all alike, and in another
    order each lap, since caches and memory are left to the next as the last one used them.

    The first lap warms up and is not counted, but for a candidate that takes longer than `patience` (if not given,
    `seconds`): it runs once.
    """
    taken = {name: Runs() for name in candidates}
    slow: set[str] = set()
    end, order = 0.0, random.Random(0)
    for lap in range(-1, 1000):
        names = [n for n in candidates if n not in slow]
        for name in names if lap < 0 else order.sample(names, len(names)):
            synchronize(device)
            start = time.perf_counter()
            if lap < 0:
                taken[name].peak = peak_bytes(candidates[name], device)
            else:
                candidates[name]()
            synchronize(device)
            spent = time.perf_counter() - start
            if lap < 0 and spent > (seconds if patience is None else patience):
                slow.add(name)
            if lap >= 0 or name in slow:
                taken[name].seconds.append(spent)
        if lap < 0:
            end = time.perf_counter() + seconds
        elif lap + 1 >= least and time.perf_counter() > end:
            break
    return taken


def without_gradient(call: Callable[[], object]) -> Callable[[], None]:
    """The call as inference makes it."""

    def run() -> None:
        with torch.no_grad():
            call()

    return run


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
    with suppress(OSError, AttributeError):  # glibc: give back what was freed, or a call could use it unseen
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark falls to what is resident now
        before = _kernel_says("self/status", "VmRSS")
    except OSError:
        call()
        return None
    call()
    return max(0, _kernel_says("self/status", "VmHWM") - before)


def free_bytes(device: torch.device) -> int | None:
    """Memory that could still be taken; None where that cannot be told."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        return _kernel_says("meminfo", "MemAvailable")
    except OSError:
        return None


def _kernel_says(file: str, field: str) -> int:
    lines = Path("/proc", file).read_text().splitlines()
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


def tell(rows: Sequence[Row], columns: Mapping[str, str], say: Callable[[str], None], first: bool) -> None:
    """The next rows of a table that grows; only the `first` have its heading."""
    table = markdown(rows, columns)
    say(table if first else table.split("\n", 2)[2])


def write_json(path: Path, what: str, device: torch.device, rows: Sequence[Row]) -> None:
    """Rows and circumstances, for programs. Raises OutputError where the file cannot be written."""
    text = json.dumps({"bench": what, **circumstances(device), "rows": list(rows)}, indent=1) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as e:
        raise OutputError(f"{path}: cannot be written: {e.strerror or e}") from e


def bars(values: Mapping[str, Mapping[str, float]], what: str) -> Figure:
    """Bars on a log axis with a line at 1: `values` maps candidate to setting to ratio; a setting may be missing."""
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(s for found in values.values() for s in found))
    figure = Figure(figsize=(max(7.0, 1.2 + max(0.9, 0.2 * len(values)) * len(settings)), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(values)
    for i, (name, found) in enumerate(values.items()):
        at = [n + (i - len(values) / 2 + 0.5) * width for n, s in enumerate(settings) if s in found]
        axes.bar(at, [found[s] for s in settings if s in found], width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylabel(what)
    axes.set_xticks(range(len(settings)), [s.replace(", ", ",\n") for s in settings], fontsize="small")
    axes.set_xlabel("setting")
    axes.legend(fontsize="small", ncols=len(values), loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)
    return figure
