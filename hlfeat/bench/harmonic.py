"""`hlfeat bench harmonic`: harmonic convolution against nn.Conv2d, deformable convolution and straightforward lowering.

Settings 1 to 9 and 1a to 3a are those of Takeuchi et al., Interspeech 2020 (batch 16, 16 -> 32 channels, time padding
Kt // 2); the last ones are what a user of EfficientLEAF has: 80 bands, 1000 frames. On a GPU, the Triton kernels
("fused") are compared too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.bench.tables import Row, append_table, bars
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
    """Rows and frames, a square kernel, an anchor."""

    name: str
    rows: int
    frames: int
    kernel: int
    anchor: int

    def axes(self) -> dict[str, Axis]:
        """The axes that make sense for it: all three for the paper's squares, the filters' own for 80 bands."""
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


def lower(x: Tensor, weight: Tensor, bias: Tensor | None, pair: Tensor, share: Tensor) -> Tensor:
    """The straightforward version: all harmonics' rows one below the other, then one convolution with stride Kf.

    Shape: as `harmonic_conv2d`; pair, share [2, Kf, G] as from `linear_interpolation`.
    """
    rows = x[:, :, pair[0]] * share[0, :, :, None] + x[:, :, pair[1]] * share[1, :, :, None]  # [B, C, Kf, G, T]
    lowered = rows.transpose(2, 3).flatten(2, 3)  # [B, C, G * Kf, T]
    kernel = weight.shape[2:]
    return F.conv2d(lowered, weight, bias, (kernel[0], 1), (0, kernel[1] // 2))


def deformable(x: Tensor, weight: Tensor, bias: Tensor, positions: Tensor) -> Callable[[], Tensor] | None:
    """torchvision's deformable convolution at the same positions, or None where there is no torchvision."""
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
    """Everything that is compared, by name; nn.Conv2d comes first."""
    half = setting.kernel // 2
    calls: dict[str, Callable[[], Tensor]] = {"Conv2d": lambda: F.conv2d(x, weight, bias, padding=half)}
    for name, axis in setting.axes().items():
        positions = axis.positions(setting.rows, setting.kernel, setting.anchor)
        if len(calls) == 1:  # the alternatives once, on the first axis
            deform = deformable(x, weight, bias, positions)
            if deform is not None:
                calls["deformable"] = deform
            pair, share = (t.to(x.device) for t in linear_interpolation(positions, setting.rows))
            share = share.to(x.dtype)
            calls["lowering"] = lambda pair=pair, share=share: lower(x, weight, bias, pair, share)  # type: ignore[misc]
        plan = plan_for(positions, setting.rows)
        calls[f"ours, {name}"] = ours = partial(harmonic_conv2d, x, weight, bias, plan, padding=half)
        if x.is_cuda and compiles(fused := partial(ours, fused=True), x, weight):
            calls[f"fused, {name}"] = fused
    return calls


def compiles(call: Callable[[], Tensor], x: Tensor, weight: Tensor) -> bool:
    """Whether the Triton kernels run here; they are compiled, which is not to be measured."""
    try:
        torch.autograd.grad(call().sum(), (x, weight))
    except torch.OutOfMemoryError:  # which is the setting's, not theirs
        raise
    except Exception as e:  # a GPU that is too old, no C compiler: the other figures are wanted all the same
        log.warning("the Triton kernels are left out: %s: %s", type(e).__name__, e)
        return False
    return True


def errors(setting: Setting, device: torch.device, names: Collection[str]) -> dict[str, float]:
    """Relative L2 error of our candidates' results on each axis, one clip, against lowering in float64."""
    x, weight, bias = tensors(setting, 1, device)
    found = {}
    for name, axis in setting.axes().items():
        positions, half = axis.positions(setting.rows, setting.kernel, setting.anchor), setting.kernel // 2
        pair, share = (t.to(device) for t in linear_interpolation(positions, setting.rows))
        with torch.no_grad():
            want = lower(x.double(), weight.double(), bias.double(), pair, share)
            for engine, fused in (("ours", None), ("fused", True)):
                if f"{engine}, {name}" in names:
                    got = harmonic_conv2d(x, weight, bias, positions, padding=half, fused=fused)
                    found[f"{engine}, {name}"] = float((got.double() - want).norm() / want.norm())
    return found


def tensors(setting: Setting, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and bias, the same every time."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, IN_CHANNELS, setting.rows, setting.frames, generator=g)
    weight = torch.randn(OUT_CHANNELS, IN_CHANNELS, setting.kernel, setting.kernel, generator=g)
    bias = torch.randn(OUT_CHANNELS, generator=g)
    x, weight, bias = x.to(device), weight.to(device), bias.to(device)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def measure(setting: Setting, device: torch.device, batch: int, seconds: float) -> Iterator[Row]:
    """A row a candidate."""
    x, weight, bias = tensors(setting, batch, device)
    calls = candidates(setting, x, weight, bias)

    cotangent = torch.randn_like(calls["Conv2d"]().detach())

    def training(call: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(), (x, weight, bias), cotangent)

    # at least so many laps, as medians of three were not; what takes a second does not need them
    least, patience = (3, seconds) if seconds < 1 else (7, 1.0)
    inference = {n: without_gradient(c) for n, c in calls.items()}
    for call in inference.values():
        call()  # plans and machine code are made once and kept: no call's memory
    forward = time_interleaved(inference, device, seconds, least, patience)
    both = time_interleaved({n: training(c) for n, c in calls.items()}, device, seconds, least, patience)
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


def run(device: torch.device, batch: int, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """All settings (`quick`: four of them, briefly); `say` is told the table of each as it is done."""
    chosen = [s for s in SETTINGS if s.name in ("3", "3a", "7", "80 bands, anchor 1")] if quick else SETTINGS
    rows: list[Row] = []
    for setting in chosen:
        try:
            new = list(measure(setting, device, batch, 0.2 if quick else 2.0))
        except torch.OutOfMemoryError as e:
            raise HlfeatError(f"setting {setting.name}: out of memory with batch {batch}", remedy="batch") from e
        append_table(new, COLUMNS, say, first=not rows)
        rows += new
    return rows


def picture(rows: list[Row]) -> Figure:
    """The paper's bar chart: forward time of each candidate in each setting, relative to nn.Conv2d."""
    names = dict.fromkeys(r["candidate"] for r in rows)
    found = {n: {r["setting"]: r["forward_ratio"] for r in rows if r["candidate"] == n} for n in names}
    return bars(found, "forward time / nn.Conv2d")
