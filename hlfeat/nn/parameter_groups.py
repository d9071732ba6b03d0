"""parameter_groups: an optimizer's parameter groups, with rates that fit the units of learned filters.

Adam moves a number by up to its learning rate a step, whatever the number's unit. With 0.001 for everything, a
bandwidth of 50 samples would take 50,000 steps to double, while a low centre frequency, in radians a sample, would pass
its neighbour after 10. So a filterbank's rates are the model's times a typical size of what they move:

- bandwidths (samples) and pooling widths (in pooling windows): the median;
- centre frequencies (radians a sample): the median width of the filters' responses, 2 sqrt(2 ln 2) / bandwidth from
  half maximum to half maximum. Moved by that, a filter hardly overlaps with what it was. Unlike the distance of
  neighbours it exists for a single filter, and does not depend on the filters' order. In a new filterbank it is 1.5
  such distances.

A tensor has one rate, although its filters differ: the lowest are ten times as narrow as the highest. The median
serves most of them. The smallest, which keeps every filter from leaving its place, holds the others back: when the
filters of one bank learn those of another, 150 steps of Adam at 0.003 take the error from 0.177 to 0.021 with these
rates, to 0.089 with the smallest distance and bandwidth, and to 0.071 with one rate for everything.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from hlfeat.nn.frontends.gabor import GaborFilterbank


def parameter_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer of torch, in which learned filters have rates that fit their units.

    Filterbanks are found wherever they are in the model: inside `hlfeat.EfficientLeaf`, `Leaf` and `build`'s
    extractors, also under `DistributedDataParallel` or `torch.compile`. The rate of their bandwidths and pooling widths
    is lr times the median of these; that of their centre frequencies is lr times the median width of the filters'
    responses. So a step of Adam moves a filter by up to lr of its own size, as it moves other parameters of size one.
    All else has the rate lr. The rates follow from the values when this is called, and a GPU is waited for. They are
    for Adam and its relatives: steps of SGD are in proportion to gradients, whose units are others.

    Weight decay is for weights, which have more than one dimension: not for biases, norms, compressions and filters,
    which it would draw to zero hertz.

    Args:
        model: any module.
        lr: the learning rate, for parameters of size one.
        weight_decay: of weights.

    Returns:
        Groups with the keys `params`, `lr`, `weight_decay` and `name`. Each parameter is in one group, and frozen ones
        (`requires_grad=False`) in none. Names: "weights", "others", and those of the filterbanks' parameters.

    Shape: any; parameters are handed on as they are.

    Raises:
        ValueError: `lr` or `weight_decay` is negative or not finite, or bandwidths or pooling widths are NaN.

    Example:
        >>> import hlfeat, torch
        >>> model = torch.nn.Sequential(hlfeat.EfficientLeaf(80, 8, compression="pcen"), torch.nn.Linear(100, 10))
        >>> for group in hlfeat.parameter_groups(model, lr=0.001, weight_decay=0.01):
        ...     print(f"{group['name']:29} {len(group['params'])} {group['lr']:.2g} {group['weight_decay']}")
        weights                       1 0.001 0.01
        others                        5 0.001 0.0
        0.filterbank.center_freqs     1 4.5e-05 0.0
        0.filterbank.bandwidths       1 0.052 0.0
        0.filterbank.pooling_widths   1 0.0004 0.0
        >>> optimizer = torch.optim.AdamW(hlfeat.parameter_groups(model, lr=0.001, weight_decay=0.01))
    """
    for name, value in {"lr": lr, "weight_decay": weight_decay}.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: expected a finite number from 0, got {value}")
    taken: set[nn.Parameter] = set()
    filters = []
    for prefix, bank in model.named_modules():
        if isinstance(bank, GaborFilterbank):
            for name, size in typical_sizes(bank, prefix).items():
                parameter = getattr(bank, name)
                if parameter.requires_grad and parameter not in taken:
                    key = f"{prefix}.{name}" if prefix else name
                    filters.append({"params": [parameter], "lr": lr * size, "weight_decay": 0.0, "name": key})
                    taken.add(parameter)
    rest = [p for p in model.parameters() if p.requires_grad and p not in taken]  # shared ones come once
    weights, others = [p for p in rest if p.dim() > 1], [p for p in rest if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "lr": lr, "weight_decay": weight_decay, "name": "weights"},
        {"params": others, "lr": lr, "weight_decay": 0.0, "name": "others"},
        *filters,
    ]
    return [group for group in groups if group["params"]]


def typical_sizes(bank: GaborFilterbank, name: str) -> dict[str, float]:
    """What one unit is of each of a filterbank's parameters. `name`: of the bank, for the error.

    Raises:
        ValueError: they are not finite.
    """
    _, bandwidths, pooling_widths = (p.detach() for p in bank.clamped())  # within their ranges, so above zero
    bandwidth, pooling_width = float(bandwidths.median()), float(pooling_widths.median())  # NaN if one is NaN
    if not (math.isfinite(bandwidth) and math.isfinite(pooling_width)):
        raise ValueError(f"{name or 'the filterbank'}: expected finite bandwidths and pooling widths, got NaN")
    return {
        "center_freqs": 2 * math.sqrt(2 * math.log(2)) / bandwidth,
        "bandwidths": bandwidth,
        "pooling_widths": pooling_width,
    }
