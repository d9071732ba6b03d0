"""Configuration of the layers of a stack; hlfeat/nn/layers builds them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hlfeat.config.base import (
    Flag,
    Kernel,
    NotNegative,
    OddKernel,
    Positive,
    SizePair,
    StrictModel,
    Whole,
    only_with,
    value_given,
)

LAYERS = "harmonic, conv, norm, activation, pool, projection or residual"
CHANNELS = "channels of the output"
STRIDE = "keep every n-th [band, frame]"
GROUPS = "groups of channels that are convolved apart"
BIAS = "add a trainable offset"
SALIENCE_ANCHOR, SALIENCE_DECAY, SALIENCE_VALLEY = 2, 0.6, 1.0  # docs/evidence.md says how they were chosen
SALIENCE_KEYS = ("init", "decay", "valley")
EVEN_OR_NULL: dict[str, Any] = {"anyOf": [{"multipleOf": 2}, {"type": "null"}]}


class HarmonicConfig(StrictModel):
    """Harmonic convolution; several anchors are mixed by a 1 x 1 convolution."""

    layer: Literal["harmonic"] = Field(default="harmonic", description=LAYERS)
    out_channels: Whole = Field(description=CHANNELS)
    kernel: Kernel = Field(default=(5, 5), description="[harmonics, frames]; an odd number of frames")
    anchor: Whole | None = Field(
        default=None, description="n: harmonic k lies at k / n times a row's frequency; null: 1, with salience 2"
    )
    anchors: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = Field(
        default=None, description="several, mixed by a 1 x 1 convolution, instead of anchor"
    )
    axis: Literal["auto", "linear", "log", "centre_freqs"] = Field(
        default="auto", description="where harmonics lie: auto (as the frontend's bands do), linear, log, centre_freqs"
    )
    bins_per_octave: Positive | None = Field(default=None, description="with axis: log; null: the frontend's")
    stride: SizePair = Field(default=(1, 1), description=STRIDE)
    dilation: Whole = Field(default=1, description="distance of the kernel's frames")
    groups: Whole = Field(default=1, description=GROUPS)
    bias: Flag = Field(default=True, description=BIAS)
    init: Literal["random", "salience"] = Field(
        default="random", description="weights before training: random, or salience (sums harmonics)"
    )
    decay: NotNegative | None = Field(
        default=None, description=f"with init: salience, p of h^-p; null: {SALIENCE_DECAY:g}"
    )
    valley: NotNegative | None = Field(
        default=None, description=f"with init: salience, v between harmonics; null: {SALIENCE_VALLEY:g}"
    )

    schema_rules: ClassVar[dict[str, Any]] = {
        "not": {"allOf": [value_given("anchor", "integer"), value_given("anchors", "array")]},
        "allOf": [
            only_with("bins_per_octave", "axis", "log"),
            only_with("decay", "init", "salience"),
            only_with("valley", "init", "salience"),
            {
                "if": {"required": ["init"], "properties": {"init": {"const": "salience"}}},
                "then": {"properties": {"anchor": EVEN_OR_NULL, "anchors": {"items": {"multipleOf": 2}}}},
            },
        ],
    }

    @model_validator(mode="before")
    @classmethod
    def _constants(cls, data: Any) -> Any:
        """The constants of a salience in place of null: if the defaults change, so does the fingerprint."""
        if not isinstance(data, dict) or data.get("init") != "salience":
            return data
        constants = {"decay": SALIENCE_DECAY, "valley": SALIENCE_VALLEY}
        if data.get("anchors") is None:
            constants["anchor"] = SALIENCE_ANCHOR
        return {**data, **{key: value for key, value in constants.items() if data.get(key) is None}}

    @model_serializer(mode="wrap")
    def _without_salience(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plain data, which fingerprints are made of: as in earlier versions for a layer that is no salience."""
        data = dump(self)
        return data if self.init == "salience" else {k: v for k, v in data.items() if k not in SALIENCE_KEYS}

    @model_validator(mode="after")
    def _one_way(self) -> HarmonicConfig:
        if self.anchor is not None and self.anchors is not None:
            raise ValueError("anchors: expected either anchor or anchors, got both")
        if self.bins_per_octave is not None and self.axis != "log":
            raise ValueError(f"bins_per_octave: expected only with axis: log, got it with axis: {self.axis}")
        return self

    @model_validator(mode="after")
    def _salience(self) -> HarmonicConfig:
        """Half-harmonics lie in whole rows of the kernel for even anchors only."""
        if self.init != "salience":
            for key in ("decay", "valley"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: expected only with init: salience, got it with init: {self.init}")
            return self
        key, anchors = ("anchors", self.anchors) if self.anchors else ("anchor", (self.anchor or SALIENCE_ANCHOR,))
        for anchor in anchors:
            if anchor % 2:
                raise ValueError(f"{key}: expected an even number with init: salience, such as 2, got {anchor}")
            if self.kernel[0] < 2 * anchor:
                raise ValueError(
                    f"kernel: expected at least {2 * anchor} harmonics with init: salience and anchor {anchor}, "
                    f"so that the second harmonic is among them, got {self.kernel[0]}"
                )
        return self


class ConvConfig(StrictModel):
    """Ordinary convolution over bands and time, zero padded to keep the size. kernel[0] must be odd too."""

    layer: Literal["conv"] = Field(default="conv", description=LAYERS)
    out_channels: Whole = Field(description=CHANNELS)
    kernel: OddKernel = Field(default=(3, 3), description="[bands, frames], odd")
    stride: SizePair = Field(default=(1, 1), description=STRIDE)
    dilation: SizePair = Field(default=(1, 1), description="distance of the kernel's [bands, frames]")
    groups: Whole = Field(default=1, description=GROUPS)
    bias: Flag = Field(default=True, description=BIAS)


class NormConfig(StrictModel):
    """Normalisation: batch (statistics of training), layer (each frame), instance (each clip: not local in time)."""

    layer: Literal["norm"] = Field(default="norm", description=LAYERS)
    kind: Literal["batch", "layer", "instance"] = Field(
        default="batch", description="batch (statistics of training), layer (each frame), instance (each clip)"
    )
    affine: Flag = Field(default=True, description="with a trainable scale and offset")


class ActivationConfig(StrictModel):
    """Pointwise nonlinearity."""

    layer: Literal["activation"] = Field(default="activation", description=LAYERS)
    kind: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "softplus"] = Field(
        default="relu", description="relu, leaky_relu, elu, gelu, silu, sigmoid, tanh or softplus"
    )


class PoolConfig(StrictModel):
    """Mean or maximum over neighbouring bands and frames, without overlap; a last, partial window in time counts."""

    layer: Literal["pool"] = Field(default="pool", description=LAYERS)
    kind: Literal["mean", "max"] = Field(default="mean", description="mean or max")
    bands: Whole = Field(default=1, description="neighbouring bands that become one")
    frames: Whole = Field(default=1, description="neighbouring frames that become one")


class ProjectionConfig(StrictModel):
    """Linear map of all channels and bands of a frame to this many features."""

    layer: Literal["projection"] = Field(default="projection", description=LAYERS)
    features: Whole = Field(description="bands of the output, which has one channel")
    bias: Flag = Field(default=True, description=BIAS)


class ResidualConfig(StrictModel):
    """Layers with a shortcut around them: the identity, or a 1 x 1 convolution where the shape changes."""

    layer: Literal["residual"] = Field(default="residual", description=LAYERS)
    layers: tuple[LayerConfig, ...] = Field(min_length=1, description="what the shortcut goes around")


LayerConfig = Annotated[
    HarmonicConfig | ConvConfig | NormConfig | ActivationConfig | PoolConfig | ProjectionConfig | ResidualConfig,
    Field(discriminator="layer"),
]
ResidualConfig.model_rebuild()
