"""`hlfeat bench profile`: what EfficientLEAF runs on the device, kernel by kernel.

EfficientLEAF "8G-opt" with 80 filters and LogTBN, for batches of clips of 8 s: the forward pass of inference, and a
training step. On a GPU these are its kernels and copies; on a CPU torch's operations, which are no kernels, without
those in threads of hlfeat's own. `wall` is measured without the profiler: where it is far above the sum of the
kernels, the device waits for Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from hlfeat.bench.frontend import SETTINGS, Candidate, Input
from hlfeat.bench.results import Done
from hlfeat.bench.tables import Row
from hlfeat.bench.timing import synchronize, time_interleaved, without_gradient
from hlfeat.errors import HlfeatError

COLUMNS = {
    "input": "input",
    "pass": "pass",
    "short": "kernel",
    "launches": "launches|d",
    "ms": "ms|.3f",
    "share": "share|.2f",
    "wall_ms": "wall, ms|.3f",
}

CLIP_SECONDS = 8.0
AUDIO = (64.0, 512.0)  # seconds in a batch
TOP = 12  # kernels that are listed; the others are added up
NAME = 80  # characters of a kernel's name in the table

ALL, OTHERS = "all", "others"


def kernels(call: Callable[[], object], device: torch.device) -> list[Row]:
    """Name, launches and milliseconds of each kernel of a call, the longest first.

    Raises HlfeatError if the profiler sees nothing, as where the driver does not let it.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        call()
        synchronize(device)
    rows: list[Row] = []
    for event in profiler.key_averages():
        if on_gpu and (event.device_type.name != "CUDA" or getattr(event, "is_user_annotation", False)):
            continue
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        rows.append({"kernel": event.key, "launches": event.count, "ms": microseconds / 1e3})
    if not rows:
        raise HlfeatError("the profiler has seen no kernels: is it allowed to look at this device?")
    return sorted(rows, key=lambda row: -row["ms"])


def table(rows: Sequence[Row], wall_ms: float, top: int = TOP) -> list[Row]:
    """All kernels in a row, the `top` first, and the others in another row; with their share of the sum."""

    def summed(name: str, some: Sequence[Row]) -> Row:
        return {"kernel": name, "launches": sum(r["launches"] for r in some), "ms": sum(r["ms"] for r in some)}

    first, rest = list(rows[:top]), rows[top:]
    total = summed(ALL, rows)
    shown = [total | {"wall_ms": wall_ms}, *first, *([summed(OTHERS, rest)] if rest else [])]
    return [{**row, "share": row["ms"] / (total["ms"] or 1.0), "short": shortened(row["kernel"])} for row in shown]


def shortened(name: str) -> str:
    """A kernel's name as a cell of a table."""
    name = name.replace("|", "/")
    return name if len(name) <= NAME else name[: NAME - 3] + "..."


def run(device: torch.device, audio: Sequence[float], top: int, done: Done, seconds: float = 0.5) -> list[Row]:
    """Profile forward passes and training steps.

    Args:
        audio: seconds in a batch, of each batch; at least a clip of 8 s is taken.
        top: the number of kernels that are listed.
        done: called with the rows of each batch and pass.
        seconds: for how long the wall time is measured.
    """
    candidate = Candidate(SETTINGS[0].build(compression="logtbn").to(device), "logtbn")
    rows: list[Row] = []
    for length in audio:
        batch = Input(max(1, round(length / CLIP_SECONDS)), CLIP_SECONDS)
        x = batch.waveforms().to(device)
        for name in ("forward", "training step"):
            training = name != "forward"
            candidate.module.train(training)
            call = partial(candidate.step, x) if training else without_gradient(partial(candidate.forward, x))
            call()  # loads the kernels
            wall = time_interleaved({name: call}, device, seconds, patience=4 * seconds)[name].typical
            key = {"input": batch.name, "pass": name}
            new = [key | row for row in table(kernels(call, device), wall * 1e3, top)]
            done(new)
            rows += new
    return rows
