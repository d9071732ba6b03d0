"""The configuration: typed, frozen and strict models; one of them describes features completely.

hlfeat/config/loading.py reads them from YAML. Every field has a short description, which the JSON Schema
(hlfeat/config/json_schema.py) and `hlfeat config show` (hlfeat/config/commented_yaml.py) repeat.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from hlfeat.config.base import StrictModel
from hlfeat.config.choices import EdgeMode
from hlfeat.config.fingerprint import digest, frames_fingerprint
from hlfeat.config.frontends import EleafConfig, FrontendConfig
from hlfeat.config.layers import LayerConfig
from hlfeat.config.output import OutputConfig
from hlfeat.text import shown


def _channels(value: object) -> object:
    if value in ("mix", "first", "each") or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"expected mix, first, each or the number of a channel from 0, got {shown(value)}")


ChannelPolicy = Annotated[
    Literal["mix", "first", "each"] | int,
    BeforeValidator(_channels),
    WithJsonSchema({"anyOf": [{"enum": ["mix", "first", "each"]}, {"type": "integer", "minimum": 0}]}),
]


class AudioConfig(StrictModel):
    """What is read from a file: its samples at one rate, which of its channels, and what counts as beyond its ends."""

    sample_rate: Annotated[int, Field(strict=True, ge=1000, le=768000)] = Field(
        default=16000, description="hertz; every clip is resampled to this"
    )
    channels: ChannelPolicy = Field(default="mix", description="mix, first, each, or the number of a channel from 0")
    edges: EdgeMode = Field(
        default="zeros",
        description="beyond a clip's ends: zeros, reflect (the clip mirrored) or context (a segment's recording)",
    )

    @model_serializer(mode="wrap")
    def _without_zeros(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plain data, which fingerprints are made of: as in versions that knew no other edges."""
        data = dump(self)
        return {k: v for k, v in data.items() if (k, v) != ("edges", "zeros")}


class Config(StrictModel):
    """A complete description of features.

    It is frozen and checked on construction, and needs no torch. `hlfeat config show` explains every key.

    Attributes:
        description: a line for people; changes no features.
        audio: what is read from a file: `sample_rate` in hertz, `channels`, and `edges`.
        frontend: what makes bands and frames of a waveform; its `kind` says which.
        stack: the layers after it, in order.
        output: what is written: `format`, `dtype`, `shard_size`, `pool`.
        seed: untrained weights of the stack are drawn from it.

    Raises:
        pydantic.ValidationError: an unknown key or an impossible value. `load_config` turns it into one line.

    Example:
        >>> from hlfeat import Config
        >>> config = Config.model_validate({"frontend": {"kind": "log-mel"}, "seed": 1})
        >>> config.frontend.window_stride, config.output.format, config.seed
        (10.0, 'npy', 1)
    """

    description: str = Field(default="", description="a line for people; changes no features")
    audio: AudioConfig = Field(default=AudioConfig(), description="what is read from a file")
    frontend: FrontendConfig = Field(default=EleafConfig(), description="waveform to bands and frames")
    stack: tuple[LayerConfig, ...] = Field(default=(), description="layers after the frontend, in order")
    output: OutputConfig = Field(default=OutputConfig(), description="what is written")
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = Field(
        default=0, description="untrained weights of the stack are drawn from it"
    )

    @model_validator(mode="after")
    def _fits_the_rate(self) -> Config:
        try:
            self.frontend.check_rate(self.audio.sample_rate)
        except ValueError as e:
            raise ValueError(f"frontend.{e}") from None
        return self

    def fingerprint(self, weights_sha256: str | None, stats_sha256: str | None = None) -> str:
        """Identifies what is written: all that decides its values and its layout, and the contents of other files."""
        content = self.model_dump(mode="json", exclude={"description"})
        if self.output.pool is None:  # directories made before pooling existed keep their fingerprint
            del content["output"]["pool"]
        return digest(content, weights_sha256, stats_sha256)

    def frames_fingerprint(self, weights_sha256: str | None) -> str:
        """Identifies the frames that are computed, however they are normalised, pooled and stored."""
        return frames_fingerprint(self.model_dump(mode="json"), weights_sha256, None)

    def without_pool(self) -> Config:
        """The configuration of the frames that are pooled."""
        return self.model_copy(update={"output": self.output.model_copy(update={"pool": None})})
