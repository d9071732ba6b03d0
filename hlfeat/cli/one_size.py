"""Options of `hlfeat bench harmonic` that give a size of one's own, and what they mean together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlfeat.errors import UsageError

if TYPE_CHECKING:
    from hlfeat.bench.one_size import OneSize


class AxisName(str, Enum):
    """Kinds of frequency axes."""

    linear = "linear"
    log = "log"
    centre = "centre"


class Dtype(str, Enum):
    """Precisions of float."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def parse_kernel(text: str) -> Any:
    """Harmonics and frames, written as 5x3."""
    sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if sizes is None:
        raise typer.BadParameter(f"expected harmonics x frames, such as 5x3, got {text!r}")
    return int(sizes[1]), int(sizes[2])


def _count(help: str) -> Any:
    return typer.Option(min=1, metavar="N", help=help)


InChannelsOption = Annotated[int | None, _count("Channels of the input; default: 16.")]
OutChannelsOption = Annotated[int | None, _count("Channels of the output; default: 32.")]
KernelOption = Annotated[
    Any, typer.Option(parser=parse_kernel, metavar="HxT", help="Harmonics x frames, such as 5x3; default: 3x3.")
]
RowsOption = Annotated[int | None, _count("Frequency rows; default: 256.")]
FramesOption = Annotated[int | None, _count("Frames; default: 256.")]
AxisOption = Annotated[
    AxisName | None, typer.Option(help="Where the harmonics of a row lie; centre: mel-spaced rows; default: linear.")
]
BinsPerOctaveOption = Annotated[
    float | None, typer.Option(metavar="N", help="Rows an octave of a log axis; default: an eighth of the rows.")
]
AnchorOption = Annotated[int | None, _count("The harmonic that is the row itself; default: 1.")]
DtypeOption = Annotated[
    Dtype | None, typer.Option(help="float32 (the default), or a half precision under torch.autocast, beside float32.")
]


def check_one_size(given: Mapping[str, Any], dtype: Dtype | None, only: list[str] | None, quick: bool) -> None:
    """Raises UsageError for options that have no meaning together.

    Args:
        given: values by the names of the fields of OneSize; None: the option was not given.
    """
    names = [name for name, value in {**given, "dtype": dtype}.items() if value is not None]
    if not names:
        return
    named = ", ".join(f"--{name.replace('_', '-')}" for name in names)
    if only:
        raise UsageError(f"--only {only[0]} is of the paper's settings: write it without {named}")
    if quick:
        raise UsageError(f"--quick is of the paper's settings: with {named}, write --seconds 0.5")
    axis, bins = given["axis"], given["bins_per_octave"]
    if bins is None:
        return
    if axis not in (None, AxisName.log):
        raise UsageError(f"--bins-per-octave with --axis {axis.value}: write --axis log, or leave one out")
    if not 0 < bins < math.inf:
        raise UsageError(f"--bins-per-octave {bins:g}: expected a number above 0, such as 12")


def one_size(batch: int, given: Mapping[str, Any], dtype: Dtype | None) -> OneSize | None:
    """The size that these options give; None if there is none of them. Rows an octave mean a log axis."""
    values = {name: value for name, value in given.items() if value is not None}
    if not values and dtype is None:
        return None
    import torch

    from hlfeat.bench.one_size import OneSize

    axis = AxisName.log if "bins_per_octave" in values else AxisName.linear
    values["axis"] = values.get("axis", axis).value
    return OneSize(batch, **values, dtype=getattr(torch, (dtype or Dtype.float32).value))
