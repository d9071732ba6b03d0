"""The strict base class of configurations, and the types that they share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from hlfeat.text import shown


class StrictModel(BaseModel):
    """A frozen part of the configuration; unknown keys are errors.

    Attributes:
        schema_rules: JSON Schema of the checks across keys, as far as JSON Schema can express them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_rules: ClassVar[dict[str, Any]] = {}


def models_in(annotation: Any) -> list[type[StrictModel]]:
    """The configuration classes in a type: the members of a union, the items of a tuple, a class itself."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def tag_key(model: type[StrictModel]) -> str | None:
    """The key that chooses this class from a union: `layer`, `kind`, or None for a class that is in none."""
    return next((key for key in ("layer", "kind") if key in model.model_fields), None)


def tag_of(model: type[StrictModel]) -> str | None:
    """The value of the tag key that chooses this class, such as "harmonic"."""
    key = tag_key(model)
    return model.model_fields[key].default if key else None


def names_in(annotation: Any) -> list[str]:
    """The tags of a union's classes, or the words of a Literal."""
    models = models_in(annotation)
    return [tag for model in models if (tag := tag_of(model))] if models else [str(a) for a in get_args(annotation)]


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


def _odd_kernel(value: object) -> object:
    kernel = _kernel(value)
    assert isinstance(kernel, tuple)
    if kernel[0] % 2 == 0:
        raise ValueError(f"expected an odd number of bands, so that a band stays centred, got {kernel[0]}")
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
OddKernel = Annotated[tuple[int, int], BeforeValidator(_odd_kernel), WithJsonSchema(pair_schema(ODD, ODD))]


def value_given(key: str, kind: str) -> dict[str, Any]:
    """JSON Schema of a mapping in which a key has a value of this type (null stands for a default)."""
    return {"required": [key], "properties": {key: {"type": kind}}}


def only_with(key: str, other: str, value: str) -> dict[str, Any]:
    """JSON Schema: a number may stand under a key only where another key has this value."""
    return {"if": value_given(key, "number"), "then": {"required": [other], "properties": {other: {"const": value}}}}
