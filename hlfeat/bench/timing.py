"""Times and peak memory of calls that take turns.

Single times on a shared machine mean little; ratios within one run do. So candidates run in turn, medians are
compared, and a GPU is synchronised before and after each call. Memory is the peak beyond what was in use before: the
allocator's on a GPU, the process's resident set on Linux.
"""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)


@dataclass
class Runs:
    """Measurements of a candidate.

    Attributes:
        seconds: of each counted run.
        peak: memory in bytes of the first run; None where it is unknown.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None

    @property
    def typical(self) -> float:
        return median(self.seconds)


def time_interleaved(
    candidates: Mapping[K, Callable[[], object]],
    device: torch.device,
    seconds: float,
    least: int = 3,
    patience: float | None = None,
) -> dict[K, Runs]:
    """Call the candidates in turn, lap after lap.

    Taking turns spreads the load of other programs over all candidates. Each lap has another order, because a
    candidate gets caches and memory as the one before it left them. The first lap is a warm-up and does not count.

    Args:
        candidates: what to call, by name (or another key).
        device: where the calls compute; it is synchronised before and after each.
        seconds: for how long to start new laps.
        least: the smallest number of laps.
        patience: a candidate whose warm-up takes more seconds than this is not called again, and its warm-up counts;
            default: `seconds`.
    """
    runs = {name: Runs() for name in candidates}
    slow: set[K] = set()
    end, order = 0.0, random.Random(0)
    for lap in range(-1, 1000):
        names = [n for n in candidates if n not in slow]
        for name in names if lap < 0 else order.sample(names, len(names)):
            synchronize(device)
            start = time.perf_counter()
            if lap < 0:
                runs[name].peak = peak_bytes(candidates[name], device)
            else:
                candidates[name]()
            synchronize(device)
            spent = time.perf_counter() - start
            if lap < 0 and spent > (seconds if patience is None else patience):
                slow.add(name)
            if lap >= 0 or name in slow:
                runs[name].seconds.append(spent)
        if lap < 0:
            end = time.perf_counter() + seconds
        elif lap + 1 >= least and time.perf_counter() > end:
            break
    return runs


def without_gradient(call: Callable[[], object]) -> Callable[[], None]:
    """The same call, under `torch.no_grad`."""

    def run() -> None:
        with torch.no_grad():
            call()

    return run


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory of a call in bytes, beyond what was in use before it; None where it is unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):  # glibc: return freed memory, or the call would reuse it unmeasured
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the high-water mark to what is resident now
        before = _proc_bytes("self/status", "VmRSS")
    except OSError:
        call()
        return None
    call()
    return max(0, _proc_bytes("self/status", "VmHWM") - before)


def free_bytes(device: torch.device) -> int | None:
    """Available memory in bytes; None where it is unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        return _proc_bytes("meminfo", "MemAvailable")
    except OSError:
        return None


def _proc_bytes(file: str, field: str) -> int:
    """A figure of a file below /proc, which has it in KiB."""
    lines = Path("/proc", file).read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
