"""harmonise: a network's convolutions become harmonic ones, each on the axis of its rows.

A convolution over neighbouring bands assumes that a pattern may be moved along the axis. In a spectrogram it may not: a
harmonic sound's partials move apart. Source: Zhang et al., "Deep Audio Priors Emerge from Harmonic Convolutional
Networks", ICLR 2020, who replace the convolutions of a U-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hlfeat.nn.axes import Axis
from hlfeat.nn.harmonic.axis_conv import AxisHarmonicConv2d, pair

Where = Callable[[str, nn.Conv2d], bool]

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)


def harmonise(
    module: nn.Module,
    axis: Axis,
    *,
    anchor: int = 1,
    where: Where | None = None,
    axes: Mapping[int, Axis] | None = None,
) -> dict[str, nn.Conv2d]:
    """Replace a network's nn.Conv2d by harmonic convolutions of the same sizes, in place; they are drawn anew.

    Which axis a convolution has depends on the rows that reach it. The first forward pass follows them, through pooling
    modules and strides: after `nn.MaxPool2d(2)`, rows have `axis.pooled(2)`. As in a U-Net, a number of rows that was
    there before has the axis that it had.

    Args:
        module: the network; its input is [B, C, F, T] with rows on `axis`, and its convolutions keep the number of rows
            but for their strides, as with padding="same".
        axis: of the input's rows, such as `LogAxis(12, 2.0)`.
        anchor: of all harmonic convolutions.
        where: which convolutions are replaced, by name and module; None: all whose kernel has more than one row.
        axes: of numbers of rows that pooling in `forward` itself (`F.max_pool2d`) makes.

    Returns:
        The convolutions that were replaced, by name.

    Raises:
        ValueError: nothing to replace; a convolution that does not keep the rows; in the first forward pass, a number
            of rows whose axis is not known.

    Example:
        >>> import hlfeat, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 2, 3, padding=1))
        >>> list(hlfeat.harmonise(net, hlfeat.LogAxis(12, 2.0)))
        ['0', '2']
        >>> net(torch.randn(1, 1, 84, 40)).shape
        torch.Size([1, 2, 42, 20])
        >>> net[2].axis  # an octave is six rows there
        LogAxis(scale=6.0, radix=2.0)
    """
    chosen = {
        name: conv
        for name, conv in module.named_modules(remove_duplicate=False)
        if isinstance(conv, nn.Conv2d) and (conv.kernel_size[0] > 1 if where is None else where(name, conv))
    }
    if "" in chosen:
        raise ValueError("expected a network of which convolutions are a part, got a convolution itself")
    if not chosen:
        raise ValueError("expected convolutions to replace, found none")
    made: dict[nn.Conv2d, AxisHarmonicConv2d] = {}  # one that is used twice stays one
    for name, conv in chosen.items():
        if conv not in made:
            made[conv] = harmonic_like(name, conv, axis, anchor)
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, made[conv])
    _RowFollower(axis, axes or {}).follow(module)
    return chosen


def harmonic_like(name: str, conv: nn.Conv2d, axis: Axis, anchor: int) -> AxisHarmonicConv2d:
    """A harmonic convolution of a convolution's sizes. Raises ValueError for one that does not keep the rows."""
    rows, dilation = conv.kernel_size[0], conv.dilation[0]
    padding: tuple[int, int] | str = conv.padding if isinstance(conv.padding, str) else (0, conv.padding[1])
    keeps = padding == "same" if isinstance(conv.padding, str) else 2 * conv.padding[0] == dilation * (rows - 1)
    if not keeps:
        raise ValueError(
            f"{name}: a harmonic convolution keeps the number of rows, this one does not: give it padding="
            f"({dilation * (rows - 1) // 2}, ...), or leave it out with where="
        )
    new = AxisHarmonicConv2d(
        axis,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        padding,
        (1, conv.dilation[1]),
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        anchor=anchor,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    return new.train(conv.training)


class _RowFollower:
    """Finds the axis of each harmonic convolution in the first forward pass of a network, then goes.

    Args:
        axis: of the input's rows.
        given: of other numbers of rows.
    """

    def __init__(self, axis: Axis, given: Mapping[int, Axis]) -> None:
        self._axis, self._given = axis, dict(given)
        self._axes: dict[int, Axis] = {}
        self._handles: list[RemovableHandle] = []

    def follow(self, module: nn.Module) -> None:
        self._handles.append(module.register_forward_pre_hook(self._begin))
        self._handles.append(module.register_forward_hook(self._end))
        for name, part in module.named_modules():
            if isinstance(part, AxisHarmonicConv2d):
                self._handles.append(part.register_forward_pre_hook(_Named(name, self)))
            if isinstance(part, (AxisHarmonicConv2d, nn.Conv2d, *POOLS)):
                self._handles.append(part.register_forward_hook(self._after))

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._axes = {inputs[0].shape[-2]: self._axis, **self._given}

    def _end(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def set_axis(self, name: str, conv: AxisHarmonicConv2d, rows: int) -> None:
        if rows not in self._axes:
            raise ValueError(
                f"{name}: the axis of its {rows} rows is not known, as no module pooled them: "
                f"give axes={{{rows}: axis.pooled(...)}}"
            )
        conv.set_axis(self._axes[rows])

    def _after(self, part: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before, after = inputs[0].shape[-2], output.shape[-2]
        if before == after or before not in self._axes or after in self._axes:
            return
        axis, stride = self._axes[before], pair(part.stride or part.kernel_size, "stride")[0]
        if isinstance(part, POOLS) and pair(part.kernel_size, "kernel_size")[0] == stride:
            self._axes[after] = axis.pooled(stride)
        elif after == -(-before // stride):  # its middle is at every stride-th row
            self._axes[after] = axis.every(stride)


class _Named:
    """A hook that knows the name of its module."""

    def __init__(self, name: str, follower: _RowFollower) -> None:
        self._name, self._follower = name, follower

    def __call__(self, module: AxisHarmonicConv2d, inputs: tuple[Tensor, ...]) -> None:
        self._follower.set_axis(self._name, module, inputs[0].shape[-2])
