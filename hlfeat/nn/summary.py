"""What a configuration comes to: shape, rate, parameters, cost and reach in time of every layer; what looks wrong.

Costs are estimates: the multiply-adds of one second's convolutions and products, and one for every number that a norm,
an activation, a pool or a compression handles. Harmonics beyond the axis are not counted, as they are not computed;
that the filterbank uses its filters' symmetry, and that a GPU prefers large products, is not taken into account.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from hlfeat.config import layers as config_layers
from hlfeat.config.config import Config
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.harmonic.modules import AxisHarmonicConv2d, MixedHarmonicConv2d
from hlfeat.nn.layers import base as layers_base
from hlfeat.nn.layers import conv as layers_conv


@dataclass(frozen=True)
class Features:
    """Features at one place between layers, and what one value of them depends on.

    Args:
        channels, bands: of a frame.
        rate: frames a second.
        reach: seconds of audio, from the first sample to the last.
        beyond: "" where that is all, else "all before" or "whole clip".
    """

    channels: int
    bands: int
    rate: float
    reach: float
    beyond: str = ""

    def seen(self) -> str:
        """The reach in words."""
        return (
            self.beyond
            if self.beyond == "whole clip"
            else f"{self.reach:.3f} s" + (self.beyond and " and " + self.beyond)
        )

    def numbers(self) -> float:
        """Values a second."""
        return self.channels * self.bands * self.rate

    def through(self, kernel: int, stride: int) -> Features:
        """After a window of so many frames (from the first to the last) that moves by `stride`."""
        return replace(self, reach=self.reach + (kernel - 1) / self.rate, rate=self.rate / stride)


@dataclass(frozen=True)
class Row:
    """One layer: its key in the configuration, what it is, what leaves it, and what it costs a second."""

    key: str
    what: str
    after: Features
    parameters: int
    cost: float


def summarise(cfg: Config, extractor: Extractor) -> list[Row]:
    """The frontend and every layer of the stack, in order."""
    first = frontend_row(cfg, extractor)
    return [first, *_stack_rows(cfg.stack, extractor.stack, first.after, "stack")]


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, with a total."""
    head = ["layer", "", "channels", "bands", "frames/s", "parameters", "multiply-adds/s", "depends on"]
    cells = [
        [
            r.key,
            r.what,
            *map(str, (r.after.channels, r.after.bands, f"{r.after.rate:g}", r.parameters)),
            short(r.cost),
            r.after.seen(),
        ]
        for r in rows
    ]
    total = ["total", *[""] * 4, str(sum(r.parameters for r in rows)), short(sum(r.cost for r in rows)), ""]
    lines = [head, *cells, total]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    left = (0, 1, 7)
    return "".join(
        "  ".join(
            f"{c:<{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in lines
    )


def short(n: float) -> str:
    """A number to three digits: 12.3 M."""
    for unit in ("", " k", " M", " G"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} T"


def frontend_row(cfg: Config, extractor: Extractor) -> Row:
    """The frontend, with its compression."""
    frontend = extractor.frontend
    compression, beyond = frontend.compression_summary()
    kind = cfg.frontend.kind
    seconds = frontend.window_samples() / frontend.sample_rate
    after = Features(frontend.n_channels, frontend.n_bands, frontend.frame_rate, seconds, beyond)
    cost = frontend.multiply_adds() + after.numbers()
    return Row("frontend", f"{kind}, {compression}" if compression else kind, after, _parameters(frontend), cost)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _stack_rows(
    layers: Sequence[config_layers.LayerConfig], modules: layers_base.Stack, x: Features, key: str
) -> Iterator[Row]:
    for i, (layer, module) in enumerate(zip(layers, modules, strict=True)):
        if isinstance(layer, config_layers.ResidualConfig):
            assert isinstance(module, layers_base.Residual)
            before, inner = x, list(_stack_rows(layer.layers, module.body, x, f"{key}.{i}.layers"))
            yield from inner
            x = inner[-1].after
            mixed = 0 if isinstance(module.shortcut, nn.Identity) else before.channels
            what = "residual, its shortcut" if mixed else "residual"
            yield Row(f"{key}.{i}", what, x, _parameters(module.shortcut), x.numbers() * (1 + mixed))
        else:
            what, after, cost = _layer(layer, module, x)
            yield Row(f"{key}.{i}", what, after, _parameters(module), cost)
            x = after


def _layer(layer: config_layers.LayerConfig, module: layers_base.Layer, x: Features) -> tuple[str, Features, float]:
    """What a layer is, what leaves it, and what it costs."""
    if isinstance(layer, config_layers.HarmonicConfig | config_layers.ConvConfig):
        assert isinstance(module, layers_conv.ConvLayer)
        dilation = layer.dilation if isinstance(layer.dilation, int) else layer.dilation[1]
        after = x.through(dilation * (layer.kernel[1] - 1) + 1, layer.stride[1])
        after = replace(after, channels=layer.out_channels, bands=-(-x.bands // layer.stride[0]))
        what = f"{layer.layer} {layer.kernel[0]} x {layer.kernel[1]}"
        one_row = layer.out_channels * (x.channels // layer.groups) * layer.kernel[1] * after.rate
        if isinstance(layer, config_layers.ConvConfig):
            return what, after, one_row * layer.kernel[0] * after.bands
        reads = [b.plan(x.bands).active for b in branches(module)]
        cost = one_row * sum(float(r.sum()) for r in reads)
        if layer.anchors is not None:
            cost += after.numbers() * len(layer.anchors) * layer.out_channels
        on_axis = sum(float(r.mean()) for r in reads) / len(reads)
        anchors = layer.anchors or (layer.anchor or 1,)
        named = f"anchor{'s' * (len(anchors) > 1)} {', '.join(map(str, anchors))}"
        return f"{what}, {named}, {on_axis:.0%} on the axis", after, cost
    if isinstance(layer, config_layers.NormConfig):
        return f"{layer.kind} norm", replace(x, beyond="whole clip") if layer.kind == "instance" else x, x.numbers()
    if isinstance(layer, config_layers.ActivationConfig):
        return layer.kind, x, x.numbers()
    if isinstance(layer, config_layers.PoolConfig):
        after = replace(x.through(layer.frames, layer.frames), bands=x.bands // layer.bands)
        return f"{layer.kind} pool {layer.bands} x {layer.frames}", after, x.numbers()
    assert isinstance(layer, config_layers.ProjectionConfig)
    return "projection", replace(x, channels=1, bands=layer.features), x.numbers() * layer.features


def branches(module: layers_conv.ConvLayer) -> list[AxisHarmonicConv2d]:
    """The harmonic convolutions of a layer: one an anchor."""
    conv = module.conv
    found = conv.branches if isinstance(conv, MixedHarmonicConv2d) else [conv]
    return [b for b in found if isinstance(b, AxisHarmonicConv2d)]
