"""Stacks of equal cost: one or two convolutions over rows, with as many taps, channels and multiply-adds in all kinds.

    rows [1, 1, F, N] -> [ReLU between] -> a logit a row [1, 1, F, N]

- harmonic: a row looks at k / 2 of its frequency, k = 1 ... 21 (HarmonicConv2d, anchor 2): ten harmonics, and between.
- wrong: the same on an axis that the rows do not have.
- plain: nn.Conv2d over 21 neighbouring rows. dilated: over 21 rows that lie `dilation` apart.
- salience: harmonic, the weights of the first layer begin as a harmonic sum (`salience`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from hlfeat import HarmonicConv2d
from hlfeat.nn.axes import Axis
from scripts.evidence.pitch_rows import Rows

TAPS, ANCHOR = 21, 2
DECAY, PENALTY = 0.8, 1.0

STARTS = ("first", "copies", "small copies", "added")
STACKS = ("harmonic", "plain", "dilated", "wrong", "salience")


def make_stack(
    kind: str, rows: Rows, layers: int, dilation: int = 1, channels: int = 8, start: str = "copies"
) -> nn.Sequential:
    """A stack with random weights of torch's generator. Raises ValueError for another kind or no layer."""
    if kind not in STACKS or layers < 1:
        raise ValueError(f"expected a stack of {', '.join(STACKS)} with a layer or more, got {kind!r}, {layers}")
    sizes = [1, *[channels] * (layers - 1), 1]
    axis = rows.wrong_axis if kind == "wrong" else rows.axis
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [convolution(kind, axis, before, after, dilation), nn.ReLU()]
    stack = nn.Sequential(*parts[:-1], Gain())
    if kind == "salience":
        start_as_salience(stack[0], start)  # type: ignore[arg-type]
    return stack


class Gain(nn.Module):
    """Logits times 10: a softmax over rows needs large ones, which small weights reach after many steps only."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x


def convolution(kind: str, axis: Axis, before: int, after: int, dilation: int) -> nn.Module:
    """One layer that keeps the number of rows."""
    if kind in ("plain", "dilated"):
        d = dilation if kind == "dilated" else 1
        return nn.Conv2d(before, after, (TAPS, 1), padding=(d * (TAPS // 2), 0), dilation=(d, 1))
    return HarmonicConv2d(before, after, (TAPS, 1), anchor=ANCHOR, axis=axis)


def follow(stack: nn.Sequential, kind: str, rows: Rows) -> None:
    """Harmonic layers read harmonics where the rows are now; those on a wrong axis stay."""
    for layer in stack:
        if isinstance(layer, HarmonicConv2d) and kind != "wrong":
            layer.set_axis(rows.axis)


def multiply_adds(stack: nn.Sequential, n_rows: int) -> int:
    """Of one frame: each weight once a row. (Rows between two rows cost harmonic layers two more a tap and channel.)"""
    return sum(layer.weight.numel() * n_rows for layer in stack if hasattr(layer, "weight"))


def salience(taps: int = TAPS, decay: float = DECAY, penalty: float = PENALTY) -> Tensor:
    """Weights of a harmonic sum that halves of the pitch do not win. Shape: -> [taps].

        w[2 h] = h^-decay at the harmonics h = 1, 2, ...;  w[k] = -penalty (w[k - 1] + w[k + 1]) / 2 for odd k

    Weights that the kernel does not have count as 0. Sources: Hermes, "Measurement of pitch by subharmonic summation",
    JASA 1988; Klapuri, "Multiple fundamental frequency estimation by summing harmonic amplitudes", ISMIR 2006.
    """
    w = torch.zeros(taps + 2, dtype=torch.float64)
    even = torch.arange(2, taps + 1, 2)
    w[even] = (even.double() / 2) ** -decay
    odd = torch.arange(1, taps + 1, 2)
    w[odd] = -penalty * (w[odd - 1] + w[odd + 1]) / 2
    return w[1:-1].float()


@torch.no_grad()
def start_as_salience(layer: HarmonicConv2d, start: str) -> None:
    """Replace weights by the pattern of `salience`, and the bias by 0. One output channel takes it as it is; of several

    - "first": the first takes it, the others stay random;
    - "copies": all take it, with normal noise of a tenth;
    - "small copies": as large as random weights are (root mean square 1 / sqrt(3 n) of n inputs), with such noise.
    - "added": so large, and the random weights are added to it.

    Raises:
        ValueError: another start.
    """
    if start not in STARTS:
        raise ValueError(f"expected a start of {', '.join(STARTS)}, got {start!r}")
    pattern = salience(layer.kernel_size[0])[:, None] / layer.in_channels
    usual = (3 * layer.weight[0].numel()) ** -0.5
    if start in ("small copies", "added"):
        pattern = pattern * (usual / pattern.square().mean().sqrt())
    if layer.bias is not None:
        layer.bias.zero_()
    if start == "first" or layer.out_channels == 1:
        layer.weight[0] = pattern
    elif start == "added":
        layer.weight += pattern
    else:
        layer.weight.copy_(pattern + 0.1 * pattern.square().mean().sqrt() * torch.randn_like(layer.weight))
