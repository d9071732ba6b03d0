"""The configuration: typed, frozen and strict models; one of them describes features completely.

Reading them from YAML, and saying what is wrong with it, is hlfeat/configfile.py's.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SIZE = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kMGT]?)B"


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


Whole = Annotated[int, Field(strict=True, ge=1, le=65536)]  # no memory holds more filters or channels
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(strict=True, gt=0, le=60000)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
SizePair = Annotated[tuple[int, int], BeforeValidator(_pair)]
Kernel = Annotated[tuple[int, int], BeforeValidator(_kernel)]


class Audio(Part):
    """What is read from a file: its samples at one rate, and which of its channels."""

    sample_rate: Annotated[int, Field(strict=True, ge=1000, le=768000)] = 16000
    channels: Annotated[Literal["mix", "first", "each"] | int, BeforeValidator(_channels)] = "mix"


class LogTBN(Part):
    """log(1 + 10^a x), median filter over time, temporal batch norm."""

    kind: Literal["logtbn"] = "logtbn"
    affine: Flag = True
    a: Annotated[float, Field(strict=True, ge=-30, le=30)] = 5.0
    trainable: Flag = True
    per_band: Flag = True
    median_filter: Flag = True
    append_filtered: Flag = True


class PCEN(Part):
    """Per-channel energy normalisation."""

    kind: Literal["pcen"] = "pcen"
    s: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.04
    alpha: Positive = 0.96
    delta: Positive = 2.0
    r: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.5
    eps: Positive = 1e-12
    learn_logs: Flag = False
    clamp: NotNegative | None = 1e-5


def _compression(value: object) -> object:
    if isinstance(value, str):
        names = ("logtbn", "pcen")
        if value not in names:
            raise ValueError(f"expected {' or '.join(names)}, got {shown(value)}{nearest(value, names)}")
        return {"kind": value}
    return value


Compression = Annotated[LogTBN | PCEN, Field(discriminator="kind"), BeforeValidator(_compression)]


class Window(Part):
    """Window and distance of frames, milliseconds."""

    window_len: Milliseconds = 25.0
    window_stride: Milliseconds = 10.0


SCALES = ("mel", "linear", "log", "bark", "erb", "mel-matrix")


def _scale(value: object) -> object:
    if isinstance(value, list | tuple):
        if value and all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in value):
            return tuple(float(v) for v in value)
    elif value in SCALES:
        return value
    word = nearest(value, SCALES) if isinstance(value, str) else ""
    raise ValueError(f"expected {', '.join(SCALES)}, or a list of frequencies above 0 Hz, got {shown(value)}{word}")


class Filters(Window):
    """Learnable Gabor filters and where they start."""

    n_filters: Whole = 40
    min_freq: NotNegative = 60.0
    max_freq: Positive = 7800.0
    scale: Annotated[str | tuple[float, ...], BeforeValidator(_scale)] = "mel"
    filters_per_octave: Positive | None = None

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

    kind: Literal["eleaf"] = "eleaf"
    num_groups: Whole = 4
    conv_win_factor: Positive = 4.77
    stride_factor: Positive = 1.0
    compression: Compression = LogTBN()

    @model_validator(mode="after")
    def _fits(self) -> Eleaf:
        if self.num_groups > self.n_filters:
            raise ValueError(f"num_groups: expected at most n_filters = {self.n_filters}, got {self.num_groups}")
        return self


class Leaf(Filters):
    """The original LEAF: every filter as long as the window, at full rate. Many times the work of eleaf."""

    kind: Literal["leaf"] = "leaf"
    compression: Compression = PCEN()


class LogMel(Window):
    """Log-mel spectrogram of torchaudio."""

    kind: Literal["log-mel"] = "log-mel"
    n_filters: Whole = 80
    min_freq: NotNegative = 60.0
    max_freq: Positive = 7800.0
    n_fft: Whole | None = None
    floor: Positive = 1e-6


class Spectrogram(Window):
    """Log power spectrogram of torchaudio: a linear frequency axis from 0 Hz."""

    kind: Literal["spectrogram"] = "spectrogram"
    n_fft: Whole | None = None
    n_bands: Whole | None = None
    floor: Positive = 1e-6


class Harmonic(Part):
    """Harmonic convolution; several anchors are mixed by a 1 x 1 convolution."""

    layer: Literal["harmonic"] = "harmonic"
    out_channels: Whole
    kernel: Kernel = (5, 5)
    anchor: Whole | None = None
    anchors: tuple[Whole, ...] | None = None
    axis: Literal["auto", "linear", "log", "centre_freqs"] = "auto"
    bins_per_octave: Positive | None = None
    stride: SizePair = (1, 1)
    dilation: Whole = 1
    groups: Whole = 1
    bias: Flag = True

    @model_validator(mode="after")
    def _one_way(self) -> Harmonic:
        if self.anchor is not None and self.anchors is not None:
            raise ValueError("anchors: expected either anchor or anchors, got both")
        if self.anchors is not None and not self.anchors:
            raise ValueError("anchors: expected at least one anchor, got none")
        if self.bins_per_octave is not None and self.axis != "log":
            raise ValueError(f"bins_per_octave: expected only with axis: log, got it with axis: {self.axis}")
        return self


class Conv(Part):
    """Ordinary convolution over bands and time, zero padded to keep the size. kernel[0] must be odd too."""

    layer: Literal["conv"] = "conv"
    out_channels: Whole
    kernel: Kernel = (3, 3)
    stride: SizePair = (1, 1)
    dilation: SizePair = (1, 1)
    groups: Whole = 1
    bias: Flag = True

    @model_validator(mode="after")
    def _centred(self) -> Conv:
        if self.kernel[0] % 2 == 0:
            raise ValueError(
                f"kernel: expected an odd number of bands, so that a band stays centred, got {self.kernel[0]}"
            )
        return self


class Norm(Part):
    """Normalisation: batch (statistics of training), layer (each frame), instance (each clip: not local in time)."""

    layer: Literal["norm"] = "norm"
    kind: Literal["batch", "layer", "instance"] = "batch"
    affine: Flag = True


class Activation(Part):
    """Pointwise nonlinearity."""

    layer: Literal["activation"] = "activation"
    kind: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "softplus"] = "relu"


class Pool(Part):
    """Mean or maximum over neighbouring bands and frames, without overlap; a last, partial window in time counts."""

    layer: Literal["pool"] = "pool"
    kind: Literal["mean", "max"] = "mean"
    bands: Whole = 1
    frames: Whole = 1


class Projection(Part):
    """Linear map of all channels and bands of a frame to this many features."""

    layer: Literal["projection"] = "projection"
    features: Whole
    bias: Flag = True


class Residual(Part):
    """Layers with a shortcut around them: the identity, or a 1 x 1 convolution where the shape changes."""

    layer: Literal["residual"] = "residual"
    layers: tuple[Layer, ...] = Field(min_length=1)


Layer = Annotated[Harmonic | Conv | Norm | Activation | Pool | Projection | Residual, Field(discriminator="layer")]
Residual.model_rebuild()


class Output(Part):
    """What is written."""

    format: Literal["npy", "pt"] = "npy"
    dtype: Literal["float32", "float16"] = "float32"
    shard_size: Annotated[int | str, BeforeValidator(_shard_size)] = "256MB"


def _frontend(value: object) -> object:
    return {"kind": "eleaf", **value} if isinstance(value, dict) else value


Frontend = Annotated[Eleaf | Leaf | LogMel | Spectrogram, Field(discriminator="kind"), BeforeValidator(_frontend)]


class Config(Part):
    """A complete description of features."""

    description: str = ""
    audio: Audio = Audio()
    frontend: Frontend = Eleaf()
    stack: tuple[Layer, ...] = ()
    output: Output = Output()
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0

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

    def fingerprint(self, weights_sha256: str | None) -> str:
        """Identifies the features: everything that decides their values and their layout, and the weights' contents."""
        what = self.model_dump(mode="json", exclude={"description"})
        text = json.dumps({"config": what, "weights": weights_sha256}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
