"""The configuration: typed, frozen and strict models; one of them describes features completely.

Reading them from YAML, and saying what is wrong with it, is hlfeat/configfile.py's. Every field has a short
description, which the JSON Schema (hlfeat/configschema.py) and `hlfeat config show` (hlfeat/configshow.py) repeat.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

SIZE = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kMGT]?)B"
SECONDS = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
POOL = rf"mean|mean\+std|max|window:{SECONDS}(?:,{SECONDS})?"


def nearest(word: str, names: Sequence[str]) -> str:
    """'; did you mean X?', or nothing where no name is near."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """A value as an error message shows it: on one line, and short."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of too many digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Part(BaseModel):
    """A frozen piece of the configuration that knows all of its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _channels(value: object) -> object:
    if value in ("mix", "first", "each") or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"expected mix, first, each or the number of a channel from 0, got {shown(value)}")


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
    """Windows in one spelling, whatever zeros they were written with."""
    found = re.fullmatch(POOL, value) if isinstance(value, str) else None
    if value is None or (found and found[1] is None):
        return value
    if not found:
        known = "mean, mean+std, max or window:SECONDS[,HOP]"
        word = nearest(value, ("mean", "mean+std", "max", "window")) if isinstance(value, str) else ""
        raise ValueError(f"expected {known}, got {shown(value)}{word}")
    length, hop = Decimal(found[1]), Decimal(found[2] or found[1])
    if not 0 < hop <= length:
        raise ValueError(f"expected windows with a HOP above 0 and up to SECONDS, as no frame is left out, got {value}")
    return f"window:{length.normalize():f}" + ("" if hop == length else f",{hop.normalize():f}")


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
ChannelPolicy = Annotated[
    Literal["mix", "first", "each"] | int,
    BeforeValidator(_channels),
    WithJsonSchema({"anyOf": [{"enum": ["mix", "first", "each"]}, {"type": "integer", "minimum": 0}]}),
]


class Audio(Part):
    """What is read from a file: its samples at one rate, and which of its channels."""

    sample_rate: Annotated[int, Field(strict=True, ge=1000, le=768000)] = Field(
        default=16000, description="hertz; every clip is resampled to this"
    )
    channels: ChannelPolicy = Field(default="mix", description="mix, first, each, or the number of a channel from 0")


class LogTBN(Part):
    """log(1 + 10^a x), median filter over time, temporal batch norm."""

    kind: Literal["logtbn"] = Field(default="logtbn", description="logtbn or pcen")
    affine: Flag = Field(default=True, description="the batch norm has a trainable scale and offset")
    a: Annotated[float, Field(strict=True, ge=-30, le=30)] = Field(
        default=5.0, description="exponent in log(1 + 10^a x)"
    )
    trainable: Flag = Field(default=True, description="a is a parameter")
    per_band: Flag = Field(default=True, description="each band has an a of its own")
    median_filter: Flag = Field(default=True, description="subtract each band's median over the clip")
    append_filtered: Flag = Field(
        default=True, description="keep the unfiltered bands, the filtered ones are a second channel"
    )


class PCEN(Part):
    """Per-channel energy normalisation."""

    kind: Literal["pcen"] = Field(default="pcen", description="logtbn or pcen")
    s: Annotated[float, Field(strict=True, gt=0, le=1)] = Field(
        default=0.04, description="smoothing coefficient over frames"
    )
    alpha: Positive = Field(default=0.96, description="exponent of the gain")
    delta: Positive = Field(default=2.0, description="offset before the root")
    r: Annotated[float, Field(strict=True, gt=0, le=1)] = Field(default=0.5, description="exponent of the root")
    eps: Positive = Field(default=1e-12, description="added to the smoothed energy")
    learn_logs: Flag = Field(default=False, description="store the parameters' logarithms")
    clamp: NotNegative | None = Field(default=1e-5, description="energies are first raised to this; null: not at all")


def _compression(value: object) -> object:
    if isinstance(value, str):
        names = ("logtbn", "pcen")
        if value not in names:
            raise ValueError(f"expected {' or '.join(names)}, got {shown(value)}{nearest(value, names)}")
        return {"kind": value}
    return value


Compression = Annotated[LogTBN | PCEN, Field(discriminator="kind"), BeforeValidator(_compression)]


COMPRESSIONS = "logtbn, pcen, or a mapping with their constants"


class Window(Part):
    """Window and distance of frames, milliseconds."""

    window_len: Milliseconds = Field(default=25.0, description="milliseconds")
    window_stride: Milliseconds = Field(default=10.0, description="milliseconds from frame to frame")


SCALES = ("mel", "linear", "log", "bark", "erb", "mel-matrix")


def _scale(value: object) -> object:
    if isinstance(value, list | tuple):
        if value and all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in value):
            return tuple(float(v) for v in value)
    elif value in SCALES:
        return value
    word = nearest(value, SCALES) if isinstance(value, str) else ""
    raise ValueError(f"expected {', '.join(SCALES)}, or a list of frequencies above 0 Hz, got {shown(value)}{word}")


ScaleOrFreqs = Annotated[
    str | tuple[float, ...],
    BeforeValidator(_scale),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(SCALES)},
                {"type": "array", "minItems": 1, "items": {"type": "number", "exclusiveMinimum": 0}},
            ]
        }
    ),
]


class Filters(Window):
    """Learnable Gabor filters and where they start."""

    n_filters: Whole = Field(default=40, description="bands")
    min_freq: NotNegative = Field(default=60.0, description="hertz; lower neighbour of the lowest filter")
    max_freq: Positive = Field(default=7800.0, description="hertz; upper neighbour of the highest filter")
    scale: ScaleOrFreqs = Field(
        default="mel", description=f"where filters start: {', '.join(SCALES)}, or a list of hertz"
    )
    filters_per_octave: Positive | None = Field(default=None, description="with scale: log, instead of max_freq")

    @model_validator(mode="after")
    def _rising(self) -> Filters:
        if self.scale == "log" and self.min_freq == 0:
            raise ValueError("min_freq: expected a frequency above 0 for scale log, got 0")
        if self.filters_per_octave is not None:
            if self.scale != "log":
                raise ValueError(f"filters_per_octave: expected only with scale: log, got it with {shown(self.scale)}")
            if self.max_freq != Filters.model_fields["max_freq"].default:
                raise ValueError("filters_per_octave: expected instead of max_freq, got both")
        if isinstance(self.scale, tuple):
            if len(self.scale) != self.n_filters:
                raise ValueError(
                    f"scale: expected n_filters = {self.n_filters} centre frequencies, got {len(self.scale)}"
                )
            points = (self.min_freq, *self.scale, self.max_freq)
            if any(a >= b for a, b in pairwise(points)):
                raise ValueError(
                    f"scale: expected frequencies that rise from min_freq = {self.min_freq:g} to max_freq = "
                    f"{self.max_freq:g}, got {shown(list(self.scale))}"
                )
        return self

    def top_freq(self) -> float:
        """Upper neighbour of the highest filter, hertz."""
        if self.filters_per_octave is None:
            return self.max_freq
        return self.min_freq * float(2.0 ** min(64.0, (self.n_filters + 1) / self.filters_per_octave))

    def bins_per_octave(self) -> float | None:
        """Filters an octave, if they are spaced so."""
        if self.scale != "log":
            return None
        return (self.n_filters + 1) / math.log2(self.top_freq() / self.min_freq)


class Eleaf(Filters):
    """EfficientLEAF: learnable Gabor filterbank in groups."""

    kind: Literal["eleaf"] = Field(default="eleaf", description="eleaf, leaf, log-mel or spectrogram")
    num_groups: Whole = Field(default=4, description="groups of filters that share a kernel size and a stride")
    conv_win_factor: Positive = Field(default=4.77, description="kernel size in multiples of a filter's sigma")
    stride_factor: Positive = Field(default=1.0, description="factor on the largest stride that keeps the Nyquist rate")
    compression: Compression = Field(default=LogTBN(), description=COMPRESSIONS)

    @model_validator(mode="after")
    def _fits(self) -> Eleaf:
        if self.num_groups > self.n_filters:
            raise ValueError(f"num_groups: expected at most n_filters = {self.n_filters}, got {self.num_groups}")
        return self


class Leaf(Filters):
    """The original LEAF: every filter as long as the window, at full rate. Many times the work of eleaf."""

    kind: Literal["leaf"] = Field(default="leaf", description="eleaf, leaf, log-mel or spectrogram")
    compression: Compression = Field(default=PCEN(), description=COMPRESSIONS)


FFT = "FFT size; null: the next power of two from the window up"


class LogMel(Window):
    """Log-mel spectrogram of torchaudio."""

    kind: Literal["log-mel"] = Field(default="log-mel", description="eleaf, leaf, log-mel or spectrogram")
    n_filters: Whole = Field(default=80, description="bands")
    min_freq: NotNegative = Field(default=60.0, description="hertz; lower edge of the lowest band")
    max_freq: Positive = Field(default=7800.0, description="hertz; upper edge of the highest band")
    n_fft: Whole | None = Field(default=None, description=FFT)
    floor: Positive = Field(default=1e-6, description="added before the logarithm")


class Spectrogram(Window):
    """Log power spectrogram of torchaudio: a linear frequency axis from 0 Hz."""

    kind: Literal["spectrogram"] = Field(default="spectrogram", description="eleaf, leaf, log-mel or spectrogram")
    n_fft: Whole | None = Field(default=None, description=FFT)
    n_bands: Whole | None = Field(default=None, description="keep so many rows, the lowest; null: all n_fft / 2 + 1")
    floor: Positive = Field(default=1e-6, description="added before the logarithm")


LAYERS = "harmonic, conv, norm, activation, pool, projection or residual"
CHANNELS = "channels of the output"
STRIDE = "keep every n-th [band, frame]"
GROUPS = "groups of channels that are convolved apart"
BIAS = "add a trainable offset"


class Harmonic(Part):
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

    @model_validator(mode="after")
    def _one_way(self) -> Harmonic:
        if self.anchor is not None and self.anchors is not None:
            raise ValueError("anchors: expected either anchor or anchors, got both")
        if self.bins_per_octave is not None and self.axis != "log":
            raise ValueError(f"bins_per_octave: expected only with axis: log, got it with axis: {self.axis}")
        return self


class Conv(Part):
    """Ordinary convolution over bands and time, zero padded to keep the size. kernel[0] must be odd too."""

    layer: Literal["conv"] = Field(default="conv", description=LAYERS)
    out_channels: Whole = Field(description=CHANNELS)
    kernel: Kernel = Field(default=(3, 3), description="[bands, frames], odd")
    stride: SizePair = Field(default=(1, 1), description=STRIDE)
    dilation: SizePair = Field(default=(1, 1), description="distance of the kernel's [bands, frames]")
    groups: Whole = Field(default=1, description=GROUPS)
    bias: Flag = Field(default=True, description=BIAS)

    @model_validator(mode="after")
    def _centred(self) -> Conv:
        if self.kernel[0] % 2 == 0:
            raise ValueError(
                f"kernel: expected an odd number of bands, so that a band stays centred, got {self.kernel[0]}"
            )
        return self


class Norm(Part):
    """Normalisation: batch (statistics of training), layer (each frame), instance (each clip: not local in time)."""

    layer: Literal["norm"] = Field(default="norm", description=LAYERS)
    kind: Literal["batch", "layer", "instance"] = Field(
        default="batch", description="batch (statistics of training), layer (each frame), instance (each clip)"
    )
    affine: Flag = Field(default=True, description="with a trainable scale and offset")


class Activation(Part):
    """Pointwise nonlinearity."""

    layer: Literal["activation"] = Field(default="activation", description=LAYERS)
    kind: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "softplus"] = Field(
        default="relu", description="relu, leaky_relu, elu, gelu, silu, sigmoid, tanh or softplus"
    )


class Pool(Part):
    """Mean or maximum over neighbouring bands and frames, without overlap; a last, partial window in time counts."""

    layer: Literal["pool"] = Field(default="pool", description=LAYERS)
    kind: Literal["mean", "max"] = Field(default="mean", description="mean or max")
    bands: Whole = Field(default=1, description="neighbouring bands that become one")
    frames: Whole = Field(default=1, description="neighbouring frames that become one")


class Projection(Part):
    """Linear map of all channels and bands of a frame to this many features."""

    layer: Literal["projection"] = Field(default="projection", description=LAYERS)
    features: Whole = Field(description="bands of the output, which has one channel")
    bias: Flag = Field(default=True, description=BIAS)


class Residual(Part):
    """Layers with a shortcut around them: the identity, or a 1 x 1 convolution where the shape changes."""

    layer: Literal["residual"] = Field(default="residual", description=LAYERS)
    layers: tuple[Layer, ...] = Field(min_length=1, description="what the shortcut goes around")


Layer = Annotated[Harmonic | Conv | Norm | Activation | Pool | Projection | Residual, Field(discriminator="layer")]
Residual.model_rebuild()


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


class Output(Part):
    """What is written."""

    format: Literal["npy", "pt"] = Field(default="npy", description="of the shards: npy or pt")
    dtype: Literal["float32", "float16"] = Field(default="float32", description="of the features: float32 or float16")
    shard_size: ShardSize = Field(default="256MB", description="clips of a shard, or its size, such as 256MB")
    pool: Pooling = Field(
        default=None, description="frames to vectors: mean, mean+std, max or window:SECONDS[,HOP]; null: not at all"
    )


def _frontend(value: object) -> object:
    return {"kind": "eleaf", **value} if isinstance(value, dict) else value


Frontend = Annotated[Eleaf | Leaf | LogMel | Spectrogram, Field(discriminator="kind"), BeforeValidator(_frontend)]


class Config(Part):
    """A complete description of features."""

    description: str = Field(default="", description="a line for people; changes no features")
    audio: Audio = Field(default=Audio(), description="what is read from a file")
    frontend: Frontend = Field(default=Eleaf(), description="waveform to bands and frames")
    stack: tuple[Layer, ...] = Field(default=(), description="layers after the frontend, in order")
    output: Output = Field(default=Output(), description="what is written")
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = Field(
        default=0, description="untrained weights of the stack are drawn from it"
    )

    @model_validator(mode="after")
    def _possible(self) -> Config:
        f, rate = self.frontend, self.audio.sample_rate
        for key in ("window_len", "window_stride"):
            if rate * getattr(f, key) < 1000:
                raise ValueError(f"frontend.{key}: expected at least one sample at {rate} Hz, got {getattr(f, key)} ms")
        window = int(rate * f.window_len / 1000)
        if not isinstance(f, Spectrogram):
            top, key = f.max_freq, "max_freq"
            if isinstance(f, Filters) and f.filters_per_octave is not None:
                top, key = f.top_freq(), "filters_per_octave"
            if f.min_freq >= top:
                raise ValueError(f"frontend.min_freq: expected less than max_freq = {top:g}, got {f.min_freq}")
            if top > rate / 2:
                raise ValueError(
                    f"frontend.{key}: expected at most half of audio.sample_rate = {rate / 2:g}, got {top:.10g}"
                )
        if not isinstance(f, Filters):
            if f.n_fft is not None and f.n_fft < window:
                raise ValueError(f"frontend.n_fft: expected at least the window's {window} samples, got {f.n_fft}")
            if isinstance(f, Spectrogram) and f.n_bands is not None:
                rows = (f.n_fft or 1 << (window - 1).bit_length()) // 2 + 1
                if f.n_bands > rows:
                    raise ValueError(f"frontend.n_bands: expected at most the FFT's {rows} rows, got {f.n_bands}")
        return self

    def fingerprint(self, weights_sha256: str | None, stats_sha256: str | None = None) -> str:
        """Identifies what is written: all that decides its values and its layout, and the contents of other files."""
        what = self.model_dump(mode="json", exclude={"description"})
        if self.output.pool is None:  # directories from before there was pooling go on
            del what["output"]["pool"]
        return _digest(what, weights_sha256, stats_sha256)

    def frames_fingerprint(self, weights_sha256: str | None) -> str:
        """Identifies the frames that are computed, however they are normalised, pooled and stored."""
        return frames_fingerprint(self.model_dump(mode="json"), weights_sha256, None)

    def without_pool(self) -> Config:
        """The configuration of the frames that are pooled."""
        return self.model_copy(update={"output": self.output.model_copy(update={"pool": None})})


def frames_fingerprint(config: dict[str, Any], weights_sha256: str | None, stats_sha256: str | None) -> str:
    """Identifies frames by a configuration as hlfeat.yaml has it, its output aside, and the contents of other files."""
    what = {key: value for key, value in config.items() if key not in ("description", "output")}
    return _digest(what, weights_sha256, stats_sha256)


def _digest(what: dict[str, Any], weights_sha256: str | None, stats_sha256: str | None) -> str:
    told = {"config": what, "weights": weights_sha256}
    if stats_sha256 is not None:
        told["stats"] = stats_sha256
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
