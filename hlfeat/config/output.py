"""Configuration of what is written: shards and pooling over time."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from hlfeat.config.base import StrictModel
from hlfeat.config.choices import Dtype, ShardFormat
from hlfeat.text import nearest, shown

# A number, then MB or M (decimal, as disks and object stores count), MiB (binary) or B; as JSON Schema has no flags,
# the pattern itself says that case does not matter.
SIZE = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?:([kKmMgGtT])(?:([iI]?)[bB])?|[bB])"
SECONDS = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
POOL = rf"mean|mean\+std|max|window:{SECONDS}(?:,{SECONDS})?"


def _shard_size(value: object) -> object:
    digits = isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value)
    if (isinstance(value, int) and not isinstance(value, bool)) or digits:
        if int(str(value)) >= 1:
            return int(str(value))
    elif isinstance(value, str) and re.fullmatch(SIZE, value) and shard_bytes(value) >= 1:
        return _with_unit(value)
    raise ValueError(f"expected a number of clips, or a size such as 256MB, 8M or 1GiB, got {shown(value)}")


def _with_unit(size: str) -> str:
    """The same size in one spelling: 8M and 8mb are 8MB. Sizes in kB, MB, GB, TB and B stay as they are written."""
    number, unit, binary = _parse_size(size)
    if binary:
        return f"{number}{unit}iB"
    decimal = unit.replace("K", "k") + "B"
    return size if size.endswith(decimal) else number + decimal


def shard_bytes(size: str) -> int:
    """Bytes of a size such as 256MB.

    >>> shard_bytes("8M"), shard_bytes("8MB"), shard_bytes("8MiB"), shard_bytes("0.5 kB")
    (8000000, 8000000, 8388608, 500)
    """
    number, unit, binary = _parse_size(size)
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit or " "))


def _parse_size(size: str) -> tuple[str, str, bool]:
    """Number, K, M, G, T or nothing, and whether the unit is binary."""
    number, unit, binary = re.fullmatch(SIZE, size).groups()  # type: ignore[union-attr]
    return number, (unit or "").upper(), bool(binary)


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
    shard_size: ShardSize = Field(default="256MB", description="clips of a shard, or its size, such as 256MB or 1GiB")
    pool: Pooling = Field(
        default=None, description="frames to vectors: mean, mean+std, max or window:SECONDS[,HOP]; null: not at all"
    )
