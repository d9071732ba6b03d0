"""Is harmonic convolution worth it at one size, that of one's own network? The bench behind the options of a size.

Harmonic convolution and nn.Conv2d take turns for several laps. Each lap gives a ratio of its own; their median and
quartiles are reported, since a ratio from a single run may be anything on a shared machine. In a half precision,
weights are in float32 and calls are made under torch.autocast, as in training. The same candidates in float32 take
turns with them, so that a lap also says whether the half precision pays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import quantiles

import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.bench.harmonic import compiles, lower
from hlfeat.bench.results import Done
from hlfeat.bench.tables import Row
from hlfeat.bench.timing import Runs, time_interleaved, without_gradient
from hlfeat.errors import HlfeatError
from hlfeat.nn.axes import Axis, CentreAxis, LinearAxis, LogAxis
from hlfeat.nn.device import out_of_memory
from hlfeat.nn.frontends.scales import spaced_frequencies
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from hlfeat.nn.harmonic.plan import linear_interpolation, plan_for

LAPS = 7  # at least: quartiles of fewer ratios say little
SECONDS = 5.0  # for which forward alone takes turns, and forward with backward again


def columns(dtype: torch.dtype) -> dict[str, str]:
    """The columns of the table; each ratio has the quartiles of its laps beside it."""
    bases = {"ratio": "/ Conv2d"} | ({"to_float32": "/ float32"} if dtype != torch.float32 else {})
    heads = {"candidate": "candidate"}
    for step, name in (("forward", "forward"), ("training", "+ backward")):
        heads[f"{step}_ms"] = f"{name}, ms|.2f"
        for key, head in bases.items():
            heads |= {f"{step}_{key}": f"{head}|.2f", f"{step}_{key}_q1": "q1|.2f", f"{step}_{key}_q3": "q3|.2f"}
    return heads | {
        "peak_mib": "memory, MiB|.0f",
        "error": "error|.0e",
        "runs": "laps|d",
        "training_runs": "with backward|d",
    }


@dataclass(frozen=True)
class OneSize:
    """A convolution of one's own.

    Args:
        kernel: harmonics and frames.
        axis: linear, log or centre (mel-spaced frequencies).
        bins_per_octave: of a log axis; None: an eighth of the rows.
        dtype: float32, or a half precision to compute in under torch.autocast.
    """

    batch: int
    in_channels: int = 16
    out_channels: int = 32
    kernel: tuple[int, int] = (3, 3)
    rows: int = 256
    frames: int = 256
    axis: str = "linear"
    bins_per_octave: float | None = None
    anchor: int = 1
    dtype: torch.dtype = torch.float32

    @property
    def bins(self) -> float:
        return self.rows / 8 if self.bins_per_octave is None else self.bins_per_octave

    @property
    def name(self) -> str:
        axis = f"log axis with {self.bins:g} bins an octave" if self.axis == "log" else f"{self.axis} axis"
        sizes = " x ".join(map(str, (self.batch, self.in_channels, self.rows, self.frames)))
        kernel = "x".join(map(str, self.kernel))
        return f"{sizes} -> {self.out_channels} channels, kernel {kernel}, {axis}, anchor {self.anchor}"

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def positions(self) -> Tensor:
        """p_k(f), float64 [Kf, rows]."""
        axes: dict[str, Callable[[], Axis]] = {
            "linear": LinearAxis,
            "log": lambda: LogAxis(self.bins, 2.0),
            "centre": lambda: CentreAxis.of(spaced_frequencies(self.rows, 60.0, 7800.0).tolist()),
        }
        return axes[self.axis]().positions(self.rows, self.kernel[0], self.anchor)


Call = Callable[[], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]  # x, weight, bias


def tensors(size: OneSize, device: torch.device, batch: int, dtype: torch.dtype) -> Inputs:
    """Input in this precision, weight and bias in float32, the same every time."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, size.in_channels, size.rows, size.frames, generator=g)
    weight = torch.randn(size.out_channels, size.in_channels, *size.kernel, generator=g)
    bias = torch.randn(size.out_channels, generator=g)
    x, weight, bias = x.to(device, dtype), weight.to(device), bias.to(device)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def under_autocast(call: Call, device: torch.device, dtype: torch.dtype) -> Call:
    """The call as it is in a network that computes in this precision."""

    def run() -> Tensor:
        with torch.autocast(device.type, dtype):
            return call()

    return call if dtype == torch.float32 else run


def candidates(size: OneSize, device: torch.device, dtype: torch.dtype, inputs: Inputs) -> dict[str, Call]:
    """nn.Conv2d and ours, by name."""
    x, weight, bias = inputs
    harmonics, frames = size.kernel
    ours = partial(harmonic_conv2d, *inputs, plan_for(size.positions(), size.rows), padding=frames // 2)
    calls: dict[str, Call] = {
        "Conv2d": lambda: F.conv2d(x, weight, bias, padding=(harmonics // 2, frames // 2)),
        f"ours, {size.axis}": partial(ours, fused=False),
    }
    calls = {name: under_autocast(call, device, dtype) for name, call in calls.items()}
    if device.type == "cuda":
        fused = under_autocast(partial(ours, fused=True), device, dtype)
        if compiles(fused, x, weight):
            calls[f"fused, {size.axis}"] = fused
    return calls


def error(size: OneSize, device: torch.device, dtype: torch.dtype, name: str) -> float:
    """Relative L2 error of a candidate of ours for one item, against lowering in float64."""
    inputs = tensors(size, device, 1, dtype)
    x, weight, bias = (v.detach().cpu().double() for v in inputs)
    with torch.no_grad():
        y = candidates(size, device, dtype, inputs)[name]().cpu().double()
        exact = lower(x, weight, bias, *linear_interpolation(size.positions(), size.rows))
    return float((y - exact).norm() / exact.norm())


def ratios(key: str, runs: Runs, base: Runs) -> Row:
    """The median of the ratios of the laps, and their lower and upper quartiles."""
    laps = [a / b for a, b in zip(runs.seconds, base.seconds, strict=True)]
    q1, middle, q3 = quantiles(laps, method="inclusive")
    return {key: middle, f"{key}_q1": q1, f"{key}_q3": q3}


def measure(size: OneSize, device: torch.device, seconds: float = SECONDS) -> list[Row]:
    """A row for each candidate; those in float32 come last where a half precision is asked for."""
    calls: dict[tuple[torch.dtype, str], Call] = {}
    steps: dict[tuple[torch.dtype, str], Callable[[], object]] = {}
    for dtype in dict.fromkeys([size.dtype, torch.float32]):
        inputs = tensors(size, device, size.batch, dtype)
        for name, call in candidates(size, device, dtype, inputs).items():
            calls[dtype, name] = call
            steps[dtype, name] = step = partial(_step, call, inputs, torch.randn_like(call().detach()))
            step()  # makes plans, loads kernels: neither is the time nor the memory of a single call
    inference = {key: without_gradient(call) for key, call in calls.items()}
    forward = time_interleaved(inference, device, seconds, LAPS, math.inf)
    training = time_interleaved(steps, device, seconds, LAPS, math.inf)
    rows = []
    for dtype, name in calls:
        peak = forward[dtype, name].peak
        row: Row = {
            "setting": size.name,
            "dtype": str(dtype).removeprefix("torch."),
            "candidate": name if dtype == size.dtype else f"{name}, in float32",
        }
        for step_name, runs in (("forward", forward), ("training", training)):
            row[f"{step_name}_ms"] = runs[dtype, name].typical * 1e3
            row |= ratios(f"{step_name}_ratio", runs[dtype, name], runs[dtype, "Conv2d"])
            if (torch.float32, name) in calls:  # Triton kernels may run in one precision only
                row |= ratios(f"{step_name}_to_float32", runs[dtype, name], runs[torch.float32, name])
        row |= {
            "peak_mib": None if peak is None else peak / 2**20,
            "error": None if name == "Conv2d" else error(size, device, dtype, name),
            "runs": len(forward[dtype, name].seconds),
            "training_runs": len(training[dtype, name].seconds),
        }
        rows.append(row)
    return rows


def _step(call: Call, inputs: Inputs, cotangent: Tensor) -> object:
    return torch.autograd.grad(call(), inputs, cotangent)


def run(size: OneSize, device: torch.device, done: Done, seconds: float | None = None) -> list[Row]:
    """Measure the size.

    Args:
        done: called with the rows.
        seconds: for which forward alone takes turns, and forward with backward again; default: SECONDS.

    Raises HlfeatError if the size does not fit into memory.
    """
    try:
        rows = measure(size, device, SECONDS if seconds is None else seconds)
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        raise HlfeatError(f"{size.name}: out of memory", remedy="batch") from e
    done(rows)
    return rows
