"""`hlfeat bench harmonic`: harmonic convolution against nn.Conv2d, deformable convolution and straightforward lowering.

Settings 1 to 9 and 1a to 3a are those of Takeuchi et al., Interspeech 2020 (batch 16, 16 -> 32 channels, time padding
Kt // 2). The last two are EfficientLEAF's size: 80 bands, 1000 frames. On a GPU, the Triton kernels ("fused") are
measured too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.bench.results import Done
from hlfeat.bench.tables import Row, bars
from hlfeat.bench.timing import time_interleaved, without_gradient
from hlfeat.errors import HlfeatError
from hlfeat.nn.axes import Axis, CentreAxis, LinearAxis, LogAxis
from hlfeat.nn.frontends.scales import spaced_frequencies
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from hlfeat.nn.harmonic.plan import linear_interpolation, plan_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure


log = logging.getLogger("hlfeat")

IN_CHANNELS, OUT_CHANNELS = 16, 32

COLUMNS = {
    "setting": "setting",
    "candidate": "candidate",
    "forward_ms": "forward, ms|.2f",
    "forward_ratio": "/ Conv2d|.2f",
    "training_ms": "+ backward, ms|.2f",
    "training_ratio": "/ Conv2d|.2f",
    "peak_mib": "memory, MiB|.0f",
    "error": "error|.0e",
    "runs": "runs|d",
    "training_runs": "with backward|d",
}


@dataclass(frozen=True)
class Setting:
    """A problem size: rows and frames of the input, the side of the square kernel, and the anchor."""

    name: str
    rows: int
    frames: int
    kernel: int
    anchor: int

    def axes(self) -> dict[str, Axis]:
        """The axes to measure: all three kinds for the paper's sizes, that of the filters for 80 bands."""
        centre = CentreAxis.of(spaced_frequencies(self.rows, 60.0, 7800.0).tolist())
        if self.name.startswith("80"):
            return {"centre": centre}
        return {"linear": LinearAxis(), "log": LogAxis(self.rows / 8, 2.0), "centre": centre}


SETTINGS = [
    Setting("1", 256, 256, 7, 1),
    Setting("2", 256, 256, 5, 1),
    Setting("3", 256, 256, 3, 1),
    Setting("1a", 256, 256, 7, 7),
    Setting("2a", 256, 256, 5, 5),
    Setting("3a", 256, 256, 3, 3),
    *(Setting(str(n), size, size, 3, 1) for n, size in enumerate((512, 256, 128, 64, 32, 16), 4)),
    Setting("80 bands, anchor 1", 80, 1000, 7, 1),
    Setting("80 bands, anchor 4", 80, 1000, 7, 4),
]
QUICK_SETTINGS = ["3", "3a", "7", "80 bands, anchor 1"]


def lower(x: Tensor, weight: Tensor, bias: Tensor | None, lerp_rows: Tensor, lerp_weights: Tensor) -> Tensor:
    """The straightforward version: gather the rows of all harmonics, then one convolution with stride Kf.

    Shape: as `harmonic_conv2d`; lerp_rows, lerp_weights [2, Kf, G] as from `linear_interpolation`.
    """
    lower_rows, upper_rows = (x[:, :, r] * w[:, :, None] for r, w in zip(lerp_rows, lerp_weights, strict=True))
    rows = lower_rows + upper_rows  # [B, C, Kf, G, T]
    lowered = rows.transpose(2, 3).flatten(2, 3)  # [B, C, G * Kf, T]
    kernel = weight.shape[2:]
    return F.conv2d(lowered, weight, bias, (kernel[0], 1), (0, kernel[1] // 2))


def deformable(x: Tensor, weight: Tensor, bias: Tensor, positions: Tensor) -> Callable[[], Tensor] | None:
    """torchvision's deformable convolution at the same positions; None if torchvision is not installed."""
    try:
        from torchvision.ops import deform_conv2d
    except ImportError:
        return None
    kf, rows = positions.shape
    half = kf // 2  # tap (k, u) of output row f reads row f + k - half + offset
    dy = positions - torch.arange(rows) - torch.arange(kf)[:, None] + half
    offset = torch.stack([dy.clamp(-4 * rows, 4 * rows), torch.zeros_like(dy)], 1)  # [Kf, 2, rows]
    offset = offset[:, None].expand(kf, weight.shape[3], 2, rows).reshape(1, -1, rows, 1)
    offset = offset.expand(len(x), -1, -1, x.shape[3]).to(x).contiguous()
    return lambda: deform_conv2d(x, offset, weight, bias, padding=(half, weight.shape[3] // 2))


def candidates(setting: Setting, x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The candidates of a setting, by name; nn.Conv2d comes first."""
    half = setting.kernel // 2
    calls: dict[str, Callable[[], Tensor]] = {"Conv2d": lambda: F.conv2d(x, weight, bias, padding=half)}
    for name, axis in setting.axes().items():
        positions = axis.positions(setting.rows, setting.kernel, setting.anchor)
        if len(calls) == 1:  # the alternatives are measured on the first axis only
            deform = deformable(x, weight, bias, positions)
            if deform is not None:
                calls["deformable"] = deform
            rows, weights = (t.to(x.device) for t in linear_interpolation(positions, setting.rows))
            calls["lowering"] = partial(lower, x, weight, bias, rows, weights.to(x.dtype))
        plan = plan_for(positions, setting.rows)
        ours = partial(harmonic_conv2d, x, weight, bias, plan, padding=half)
        calls[f"ours, {name}"] = partial(ours, fused=False)
        if x.is_cuda and compiles(fused := partial(ours, fused=True), x, weight):
            calls[f"fused, {name}"] = fused
    return calls


def compiles(call: Callable[[], Tensor], x: Tensor, weight: Tensor) -> bool:
    """Whether the Triton kernels run here. The call compiles them, so that compiling is not measured."""
    try:
        torch.autograd.grad(call().sum(), (x, weight))
    except torch.OutOfMemoryError:  # the setting is too large for any candidate
        raise
    except Exception as e:  # the GPU is too old, or there is no C compiler: measure the other candidates
        log.warning("the Triton kernels are left out: %s: %s", type(e).__name__, e)
        return False
    return True


def errors(setting: Setting, device: torch.device, names: Collection[str]) -> dict[str, float]:
    """Relative L2 error of our candidates' results on each axis for one clip, against lowering in float64."""
    x, weight, bias = tensors(setting, 1, device)
    relative = {}
    for name, axis in setting.axes().items():
        positions, half = axis.positions(setting.rows, setting.kernel, setting.anchor), setting.kernel // 2
        rows, weights = (t.to(device) for t in linear_interpolation(positions, setting.rows))
        with torch.no_grad():
            exact = lower(x.double(), weight.double(), bias.double(), rows, weights)
            for engine, fused in (("ours", False), ("fused", True)):
                if f"{engine}, {name}" in names:
                    y = harmonic_conv2d(x, weight, bias, positions, padding=half, fused=fused)
                    relative[f"{engine}, {name}"] = float((y.double() - exact).norm() / exact.norm())
    return relative


def tensors(setting: Setting, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and bias, the same every time."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, IN_CHANNELS, setting.rows, setting.frames, generator=g)
    weight = torch.randn(OUT_CHANNELS, IN_CHANNELS, setting.kernel, setting.kernel, generator=g)
    bias = torch.randn(OUT_CHANNELS, generator=g)
    x, weight, bias = x.to(device), weight.to(device), bias.to(device)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def measure(setting: Setting, device: torch.device, batch: int, seconds: float) -> Iterator[Row]:
    """Measure a setting: a row for each candidate."""
    x, weight, bias = tensors(setting, batch, device)
    calls = candidates(setting, x, weight, bias)

    cotangent = torch.randn_like(calls["Conv2d"]().detach())

    def training(call: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(), (x, weight, bias), cotangent)

    # Medians of three laps differed from run to run. A candidate that takes a second is measured once.
    least, patience = (3, seconds) if seconds < 1 else (7, 1.0)
    inference = {n: without_gradient(c) for n, c in calls.items()}
    steps = {n: training(c) for n, c in calls.items()}
    # Makes plans and machine code, which are kept and are not the memory of a single call. A GPU's libraries load their
    # kernels when they are first called, which must not pass for the time of a slow candidate.
    for call in [*inference.values(), *(steps.values() if device.type == "cuda" else [])]:
        call()
    forward = time_interleaved(inference, device, seconds, least, patience)
    both = time_interleaved(steps, device, seconds, least, patience)
    error = errors(setting, device, calls.keys())
    base, base_both = forward["Conv2d"].typical, both["Conv2d"].typical
    for name in calls:
        peak = forward[name].peak
        yield {
            "setting": setting.name,
            "candidate": name,
            "forward_ms": forward[name].typical * 1e3,
            "forward_ratio": forward[name].typical / base,
            "training_ms": both[name].typical * 1e3,
            "training_ratio": both[name].typical / base_both,
            "peak_mib": None if peak is None else peak / 2**20,
            "error": error.get(name),
            "runs": len(forward[name].seconds),
            "training_runs": len(both[name].seconds),
        }


def run(
    device: torch.device,
    batch: int,
    quick: bool,
    done: Done,
    settings: Sequence[Setting] = SETTINGS,
    seconds: float | None = None,
) -> list[Row]:
    """Measure each setting, or with `quick` four of them, briefly.

    Args:
        batch: clips at once.
        quick: measure those of QUICK_SETTINGS only; all settings if none of them is asked for.
        done: called with the rows of each setting.
        settings: what to measure.
        seconds: of a measurement; default: 2, or 0.2 with `quick`.

    Raises HlfeatError if a setting does not fit into memory.
    """
    brief = [s for s in settings if s.name in QUICK_SETTINGS] or settings
    if seconds is None:
        seconds = 0.2 if quick else 2.0
    rows: list[Row] = []
    for setting in brief if quick else settings:
        try:
            new = list(measure(setting, device, batch, seconds))
        except torch.OutOfMemoryError as e:
            raise HlfeatError(f"setting {setting.name}: out of memory with batch {batch}", remedy="batch") from e
        done(new)
        rows += new
    return rows


def picture(rows: list[Row]) -> Figure:
    """The paper's bar chart: forward time of each candidate in each setting, relative to nn.Conv2d."""
    names = dict.fromkeys(r["candidate"] for r in rows)
    ratios = {n: {r["setting"]: r["forward_ratio"] for r in rows if r["candidate"] == n} for n in names}
    return bars(ratios, "forward time / nn.Conv2d")
