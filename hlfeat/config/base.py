"""The strict base class of configurations, and the types that they share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from hlfeat.text import shown


class StrictModel(BaseModel):
    """A frozen piece of the configuration that knows all of its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _pair(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) == 2 and all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 4096 for v in numbers):
        return tuple(numbers)
    raise ValueError(f"expected a whole number from 1 to 4096, or a pair [bands, frames] of them, got {shown(value)}")


def _kernel(value: object) -> object:
    kernel = _pair(value)
    assert isinstance(kernel, tuple)
    if kernel[1] % 2 == 0:
        raise ValueError(f"expected an odd number of frames, so that a frame stays centred, got {kernel[1]}")
    return kernel


NUMBER: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 4096}
ODD: dict[str, Any] = {**NUMBER, "not": {"multipleOf": 2}}


def pair_schema(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of a pair, for which one number may stand that is good for both."""
    # `items` too, for editors that know only drafts without prefixItems
    pair = {"type": "array", "prefixItems": [first, second], "items": NUMBER, "minItems": 2, "maxItems": 2}
    return {"anyOf": [{**first, **second}, pair]}


Whole = Annotated[int, Field(strict=True, ge=1, le=65536)]  # no memory holds more filters or channels
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(strict=True, gt=0, le=60000)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
SizePair = Annotated[tuple[int, int], BeforeValidator(_pair), WithJsonSchema(pair_schema(NUMBER, NUMBER))]
Kernel = Annotated[tuple[int, int], BeforeValidator(_kernel), WithJsonSchema(pair_schema(NUMBER, ODD))]
