"""Configuration of what is written: shards and pooling over time."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from hlfeat.config.base import StrictModel
from hlfeat.config.choices import Dtype, ShardFormat
from hlfeat.text import nearest, shown

SIZE = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kMGT]?)B"
SECONDS = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
POOL = rf"mean|mean\+std|max|window:{SECONDS}(?:,{SECONDS})?"


def _shard_size(value: object) -> object:
    digits = isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value)
    if (isinstance(value, int) and not isinstance(value, bool)) or digits:
        if int(str(value)) >= 1:
            return int(str(value))
    elif isinstance(value, str) and re.fullmatch(SIZE, value) and shard_bytes(value) >= 1:
        return value
    raise ValueError(f"expected a number of clips, or a size such as 256MB, got {shown(value)}")


def shard_bytes(size: str) -> int:
    """Bytes of a size such as 256MB (decimal units, as disks and object stores count)."""
    number, unit = re.fullmatch(SIZE, size).groups()  # type: ignore[union-attr]
    return int(float(number) * 1000 ** " kMGT".index(unit or " "))


def _pool(value: object) -> object:
    """The same windows in one spelling: window:1.50 is window:1.5."""
    match = re.fullmatch(POOL, value) if isinstance(value, str) else None
    if value is None or (match and match[1] is None):
        return value
    if not match:
        known = "mean, mean+std, max or window:SECONDS[,HOP]"
        word = nearest(value, ("mean", "mean+std", "max", "window")) if isinstance(value, str) else ""
        raise ValueError(f"expected {known}, got {shown(value)}{word}")
    length, hop = Decimal(match[1]), Decimal(match[2] or match[1])
    if not 0 < hop <= length:
        raise ValueError(f"expected windows with a HOP above 0 and up to SECONDS, as no frame is left out, got {value}")
    return f"window:{length.normalize():f}" + ("" if hop == length else f",{hop.normalize():f}")


ShardSize = Annotated[
    int | str,
    BeforeValidator(_shard_size),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^({SIZE}|[0-9]{{1,15}})$"}]}
    ),
]


Pooling = Annotated[
    str | None,
    BeforeValidator(_pool),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": f"^({POOL})$"}, {"type": "null"}]}),
]


class OutputConfig(StrictModel):
    """What is written."""

    format: ShardFormat = Field(default="npy", description="of the shards: npy or pt")
    dtype: Dtype = Field(default="float32", description="of the features: float32 or float16")
    shard_size: ShardSize = Field(default="256MB", description="clips of a shard, or its size, such as 256MB")
    pool: Pooling = Field(
        default=None, description="frames to vectors: mean, mean+std, max or window:SECONDS[,HOP]; null: not at all"
    )
