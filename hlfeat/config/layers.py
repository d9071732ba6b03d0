"""Configuration of the layers of a stack; hlfeat/nn/layers builds them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hlfeat.config.base import Flag, Kernel, OddKernel, Positive, SizePair, StrictModel, Whole, only_with, value_given

LAYERS = "harmonic, conv, norm, activation, pool, projection or residual"
CHANNELS = "channels of the output"
STRIDE = "keep every n-th [band, frame]"
GROUPS = "groups of channels that are convolved apart"
BIAS = "add a trainable offset"


class HarmonicConfig(StrictModel):
    """Harmonic convolution; several anchors are mixed by a 1 x 1 convolution."""

    layer: Literal["harmonic"] = Field(default="harmonic", description=LAYERS)
    out_channels: Whole = Field(description=CHANNELS)
    kernel: Kernel = Field(default=(5, 5), description="[harmonics, frames]; an odd number of frames")
    anchor: Whole | None = Field(
        default=None, description="n: harmonic k lies at k / n times a row's frequency; null: 1"
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

    schema_rules: ClassVar[dict[str, Any]] = {
        "not": {"allOf": [value_given("anchor", "integer"), value_given("anchors", "array")]},
        **only_with("bins_per_octave", "axis", "log"),
    }

    @model_validator(mode="after")
    def _one_way(self) -> HarmonicConfig:
        if self.anchor is not None and self.anchors is not None:
            raise ValueError("anchors: expected either anchor or anchors, got both")
        if self.bins_per_octave is not None and self.axis != "log":
            raise ValueError(f"bins_per_octave: expected only with axis: log, got it with axis: {self.axis}")
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
