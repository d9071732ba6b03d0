"""Warnings about modules that can be built but look wrong: harmonics outside the axis, bands out of order."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hlfeat.errors import AxisError
from hlfeat.nn.axes import Axis, CentreAxis
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.harmonic.modules import AxisHarmonicConv2d
from hlfeat.nn.layers import base as layers_base
from hlfeat.nn.layers import conv as layers_conv
from hlfeat.nn.layers import pooling
from hlfeat.nn.summary import branches

MOSTLY = 2 / 3  # of a kernel's reads outside the axis; an octave of overtones (7 from anchor 1) stays below on any axis
ASTRAY = 0.5  # bands that harmonics may be read away from where they lie: interpolation blurs as much


def warnings_of(extractor: Extractor) -> list[str]:
    """What looks wrong: filters out of order, harmonics that read next to nothing or at the wrong places."""
    freqs = extractor.frontend.centre_freqs().tolist()
    try:
        axis: Axis = CentreAxis.of(freqs, 1e-6)
    except AxisError as e:
        return [f"frontend: bands are not in the order of their frequency: {e}"]
    return list(_stack_warnings(extractor.stack, axis, len(freqs), "stack"))


def _stack_warnings(modules: layers_base.Stack, axis: Axis | None, bands: int, key: str) -> Iterator[str]:
    """The same of a stack; `axis` is where its bands really are, whatever its layers were told."""
    for i, module in enumerate(modules):
        if axis is None:  # behind a projection
            return
        if isinstance(module, layers_base.Residual):
            yield from _stack_warnings(module.body, axis, bands, f"{key}.{i}.layers")
            strides = [m.band_stride for m in module.body if isinstance(m, layers_conv.ConvLayer)]
            axis, bands = axis.every(math.prod(strides)), -(-bands // math.prod(strides))
        elif isinstance(module, layers_conv.ConvLayer):
            for branch in branches(module):
                for doubt in (outside(branch, bands), astray(branch, axis, bands)):
                    if doubt:
                        yield f"{key}.{i}: {doubt}"
            axis, bands = axis.every(module.band_stride), -(-bands // module.band_stride)
        elif isinstance(module, pooling.Pool):
            axis, bands = module.set_axis(axis), bands // module.bands
        else:
            axis = module.set_axis(axis)


def outside(conv: AxisHarmonicConv2d, bands: int) -> str:
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


def astray(conv: AxisHarmonicConv2d, axis: Axis, bands: int) -> str:
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
