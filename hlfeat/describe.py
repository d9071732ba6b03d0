"""What a configuration comes to: shape, rate, parameters, cost and reach in time of every layer; what looks wrong.

Costs are estimates: the multiply-adds of one second's convolutions and products, and one for every number that a norm,
an activation, a pool or a compression handles. Harmonics beyond the axis are not counted, as they are not computed;
that the filterbank uses its filters' symmetry, and that a GPU prefers large products, is not taken into account.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from hlfeat import config, stack
from hlfeat.axes import Axis, AxisError, CentreAxis
from hlfeat.compression import PCEN, LogTBN
from hlfeat.config import Config
from hlfeat.extractor import Extractor
from hlfeat.frontends import LogMel, Spectrogram
from hlfeat.harmonic import MixedHarmonicConv2d, _HarmonicConv2d
from hlfeat.leaf import LearnableFrontend

MOSTLY = 2 / 3  # of a kernel's reads outside the axis; an octave of overtones (7 from anchor 1) stays below on any axis
ASTRAY = 0.5  # bands that harmonics may be read away from where they lie: interpolation blurs as much


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


def describe(cfg: Config, extractor: Extractor) -> list[Row]:
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
    f, rate = extractor.frontend, extractor.sample_rate / extractor.frontend.hop
    what, beyond = str(cfg.frontend.kind), ""
    if isinstance(f, LearnableFrontend):
        groups = f.filterbank.groups()
        cost = sum(
            (g.stop - g.start) * (2 * (g.kernel + 1) * f.sample_rate / g.stride + g.window * rate) for g in groups
        )
        samples = max(2 * (g.kernel // 2 + g.window // 2 * g.stride) + 1 for g in groups)
        if isinstance(f.compression, LogTBN):
            what, beyond = f"{what}, logtbn", "whole clip" if f.compression.median_filter else ""
        elif isinstance(f.compression, PCEN):
            what, beyond = f"{what}, pcen", "all before"
    else:
        assert isinstance(f, LogMel | Spectrogram)
        transform = f.mel if isinstance(f, LogMel) else f.stft
        n_fft, samples = int(transform.n_fft), int(transform.win_length)
        cost = rate * n_fft * (1 + math.log2(n_fft))
        if isinstance(f, LogMel):
            cost += rate * (n_fft // 2 + 1) * f.n_bands
    after = Features(f.n_channels, f.n_bands, rate, samples / f.sample_rate, beyond)
    return Row("frontend", what, after, _parameters(f), cost + after.numbers())


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _stack_rows(layers: Sequence[config.Layer], modules: stack.Stack, x: Features, key: str) -> Iterator[Row]:
    for i, (layer, module) in enumerate(zip(layers, modules, strict=True)):
        if isinstance(layer, config.Residual):
            assert isinstance(module, stack.Residual)
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


def _layer(layer: config.Layer, module: stack.Layer, x: Features) -> tuple[str, Features, float]:
    """What a layer is, what leaves it, and what it costs."""
    if isinstance(layer, config.Harmonic | config.Conv):
        assert isinstance(module, stack.ConvLayer)
        dilation = layer.dilation if isinstance(layer.dilation, int) else layer.dilation[1]
        after = x.through(dilation * (layer.kernel[1] - 1) + 1, layer.stride[1])
        after = replace(after, channels=layer.out_channels, bands=-(-x.bands // layer.stride[0]))
        what = f"{layer.layer} {layer.kernel[0]} x {layer.kernel[1]}"
        one_row = layer.out_channels * (x.channels // layer.groups) * layer.kernel[1] * after.rate
        if isinstance(layer, config.Conv):
            return what, after, one_row * layer.kernel[0] * after.bands
        reads = [b.plan(x.bands).active for b in branches(module)]
        cost = one_row * sum(float(r.sum()) for r in reads)
        if layer.anchors is not None:
            cost += after.numbers() * len(layer.anchors) * layer.out_channels
        on_axis = sum(float(r.mean()) for r in reads) / len(reads)
        anchors = layer.anchors or (layer.anchor or 1,)
        named = f"anchor{'s' * (len(anchors) > 1)} {', '.join(map(str, anchors))}"
        return f"{what}, {named}, {on_axis:.0%} on the axis", after, cost
    if isinstance(layer, config.Norm):
        return f"{layer.kind} norm", replace(x, beyond="whole clip") if layer.kind == "instance" else x, x.numbers()
    if isinstance(layer, config.Activation):
        return layer.kind, x, x.numbers()
    if isinstance(layer, config.Pool):
        after = replace(x.through(layer.frames, layer.frames), bands=x.bands // layer.bands)
        return f"{layer.kind} pool {layer.bands} x {layer.frames}", after, x.numbers()
    assert isinstance(layer, config.Projection)
    return "projection", replace(x, channels=1, bands=layer.features), x.numbers() * layer.features


def branches(module: stack.ConvLayer) -> list[_HarmonicConv2d]:
    """The harmonic convolutions of a layer: one an anchor."""
    conv = module.conv
    found = conv.branches if isinstance(conv, MixedHarmonicConv2d) else [conv]
    return [b for b in found if isinstance(b, _HarmonicConv2d)]


def doubts(extractor: Extractor) -> list[str]:
    """What looks wrong: filters out of order, harmonics that read next to nothing or at the wrong places."""
    freqs = extractor.frontend.centre_freqs().tolist()
    try:
        axis: Axis = CentreAxis.of(freqs, 1e-6)
    except AxisError as e:
        return [f"frontend: bands are not in the order of their frequency: {e}"]
    return list(_stack_doubts(extractor.stack, axis, len(freqs), "stack"))


def _stack_doubts(modules: stack.Stack, axis: Axis | None, bands: int, key: str) -> Iterator[str]:
    """The same of a stack; `axis` is where its bands really are, whatever its layers were told."""
    for i, module in enumerate(modules):
        if axis is None:  # behind a projection
            return
        if isinstance(module, stack.Residual):
            yield from _stack_doubts(module.body, axis, bands, f"{key}.{i}.layers")
            strides = [m.band_stride for m in module.body if isinstance(m, stack.ConvLayer)]
            axis, bands = axis.every(math.prod(strides)), -(-bands // math.prod(strides))
        elif isinstance(module, stack.ConvLayer):
            for branch in branches(module):
                for doubt in (outside(branch, bands), astray(branch, axis, bands)):
                    if doubt:
                        yield f"{key}.{i}: {doubt}"
            axis, bands = axis.every(module.band_stride), -(-bands // module.band_stride)
        elif isinstance(module, stack.Pool):
            axis, bands = module.set_axis(axis), bands // module.bands
        else:
            axis = module.set_axis(axis)


def outside(conv: _HarmonicConv2d, bands: int) -> str:
    """What is to say about harmonics outside the axis, or nothing."""
    read = conv.plan(bands).active  # [Kf, G]
    never = [str(k) for k, rows in enumerate(read, 1) if not rows.any()]
    if not never and read.mean() >= 1 - MOSTLY:
        return ""
    always = f", harmonics {', '.join(never)} in every band" if never else ""
    return (
        f"{1 - read.mean():.0%} of its kernel rows (anchor {conv.anchor}) read nothing, "
        f"as harmonics lie outside the axis{always}"
    )


def astray(conv: _HarmonicConv2d, axis: Axis, bands: int) -> str:
    """What is to say about harmonics that are read elsewhere than they lie, or nothing."""
    kernel = conv.kernel_size[0]
    told, true = (a.positions(bands, kernel, conv.anchor) for a in (conv.axis, axis))
    inside = (told >= 0) & (told <= bands - 1) & (true >= 0) & (true <= bands - 1)
    if conv.anchor <= kernel:
        inside[conv.anchor - 1] = False  # the band itself, on every axis
    off = (told - true).abs()[inside]
    if not len(off) or off.mean() <= ASTRAY:
        return ""
    return (
        f"its axis ({conv.axis.describe()}) is not that of its bands: "
        f"harmonics (anchor {conv.anchor}) are read {float(off.mean()):.1f} bands from where they lie, on average"
    )
