"""Configuration of frontends and their compression."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from hlfeat.config.base import (
    Flag,
    Milliseconds,
    NotNegative,
    Positive,
    StrictModel,
    Whole,
    names_in,
    only_with,
    tag_of,
    value_given,
)
from hlfeat.text import nearest, shown


class LogTBNConfig(StrictModel):
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


class PCENConfig(StrictModel):
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
        names = names_in(LogTBNConfig | PCENConfig)
        if value not in names:
            raise ValueError(f"expected {' or '.join(names)}, got {shown(value)}{nearest(value, names)}")
        return {"kind": value}
    return value


CompressionConfig = Annotated[LogTBNConfig | PCENConfig, Field(discriminator="kind"), BeforeValidator(_compression)]


COMPRESSIONS = "logtbn, pcen, or a mapping with their constants"


class WindowConfig(StrictModel):
    """Window and distance of frames, milliseconds."""

    window_len: Milliseconds = Field(default=25.0, description="milliseconds")
    window_stride: Milliseconds = Field(default=10.0, description="milliseconds from frame to frame")

    def check_rate(self, sample_rate: int) -> None:
        """Raises ValueError, which begins with the field, for what cannot be at this sample rate in hertz."""
        for key in ("window_len", "window_stride"):
            length = getattr(self, key)
            if sample_rate * length < 1000:
                raise ValueError(f"{key}: expected at least one sample at {sample_rate} Hz, got {length} ms")

    def window_samples(self, sample_rate: int) -> int:
        """The window in samples."""
        return int(sample_rate * self.window_len / 1000)


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


DEFAULT_MAX_FREQ = 7800.0
FILTER_RULES: list[dict[str, Any]] = [
    {
        "if": {"required": ["scale"], "properties": {"scale": {"const": "log"}}},
        "then": {"properties": {"min_freq": {"exclusiveMinimum": 0}}},
    },
    only_with("filters_per_octave", "scale", "log"),
    # the default max_freq counts as one that is not given
    {
        "if": value_given("filters_per_octave", "number"),
        "then": {"properties": {"max_freq": {"const": DEFAULT_MAX_FREQ}}},
    },
]


class FiltersConfig(WindowConfig):
    """Learnable Gabor filters and where they start."""

    schema_rules: ClassVar[dict[str, Any]] = {"allOf": FILTER_RULES}

    n_filters: Whole = Field(default=40, description="bands")
    min_freq: NotNegative = Field(default=60.0, description="hertz; lower neighbour of the lowest filter")
    max_freq: Positive = Field(default=DEFAULT_MAX_FREQ, description="hertz; upper neighbour of the highest filter")
    scale: ScaleOrFreqs = Field(
        default="mel", description=f"where filters start: {', '.join(SCALES)}, or a list of hertz"
    )
    filters_per_octave: Positive | None = Field(default=None, description="with scale: log, instead of max_freq")

    @model_validator(mode="after")
    def _rising(self) -> FiltersConfig:
        if self.scale == "log" and self.min_freq == 0:
            raise ValueError("min_freq: expected a frequency above 0 for scale log, got 0")
        if self.filters_per_octave is not None:
            if self.scale != "log":
                raise ValueError(f"filters_per_octave: expected only with scale: log, got it with {shown(self.scale)}")
            if self.max_freq != DEFAULT_MAX_FREQ:
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

    def check_rate(self, sample_rate: int) -> None:
        super().check_rate(sample_rate)
        key = "max_freq" if self.filters_per_octave is None else "filters_per_octave"
        _check_range(self.min_freq, self.top_freq(), key, sample_rate)

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


class EleafConfig(FiltersConfig):
    """EfficientLEAF: learnable Gabor filterbank in groups."""

    kind: Literal["eleaf"] = Field(default="eleaf", description="eleaf, leaf, log-mel or spectrogram")
    num_groups: Whole = Field(default=4, description="groups of filters that share a kernel size and a stride")
    conv_win_factor: Positive = Field(default=4.77, description="kernel size in multiples of a filter's sigma")
    stride_factor: Positive = Field(default=1.0, description="factor on the largest stride that keeps the Nyquist rate")
    compression: CompressionConfig = Field(default=LogTBNConfig(), description=COMPRESSIONS)

    @model_validator(mode="after")
    def _fits(self) -> EleafConfig:
        if self.num_groups > self.n_filters:
            raise ValueError(f"num_groups: expected at most n_filters = {self.n_filters}, got {self.num_groups}")
        return self


class LeafConfig(FiltersConfig):
    """The original LEAF: every filter as long as the window, at full rate. Many times the work of eleaf."""

    kind: Literal["leaf"] = Field(default="leaf", description="eleaf, leaf, log-mel or spectrogram")
    compression: CompressionConfig = Field(default=PCENConfig(), description=COMPRESSIONS)


FFT = "FFT size; null: the next power of two from the window up"


class LogMelConfig(WindowConfig):
    """Log-mel spectrogram of torchaudio."""

    kind: Literal["log-mel"] = Field(default="log-mel", description="eleaf, leaf, log-mel or spectrogram")
    n_filters: Whole = Field(default=80, description="bands")
    min_freq: NotNegative = Field(default=60.0, description="hertz; lower edge of the lowest band")
    max_freq: Positive = Field(default=7800.0, description="hertz; upper edge of the highest band")
    n_fft: Whole | None = Field(default=None, description=FFT)
    floor: Positive = Field(default=1e-6, description="added before the logarithm")

    def check_rate(self, sample_rate: int) -> None:
        super().check_rate(sample_rate)
        _check_range(self.min_freq, self.max_freq, "max_freq", sample_rate)
        _check_fft(self.n_fft, self.window_samples(sample_rate))


class SpectrogramConfig(WindowConfig):
    """Log power spectrogram of torchaudio: a linear frequency axis from 0 Hz."""

    kind: Literal["spectrogram"] = Field(default="spectrogram", description="eleaf, leaf, log-mel or spectrogram")
    n_fft: Whole | None = Field(default=None, description=FFT)
    n_bands: Whole | None = Field(default=None, description="keep so many rows, the lowest; null: all n_fft / 2 + 1")
    floor: Positive = Field(default=1e-6, description="added before the logarithm")

    def check_rate(self, sample_rate: int) -> None:
        super().check_rate(sample_rate)
        window = self.window_samples(sample_rate)
        _check_fft(self.n_fft, window)
        rows = (self.n_fft or 1 << (window - 1).bit_length()) // 2 + 1
        if self.n_bands is not None and self.n_bands > rows:
            raise ValueError(f"n_bands: expected at most the FFT's {rows} rows, got {self.n_bands}")


def _check_range(low: float, high: float, high_key: str, sample_rate: int) -> None:
    """Raises ValueError for a frequency range that is empty, or above half of the sample rate."""
    if low >= high:
        raise ValueError(f"min_freq: expected less than max_freq = {high:g}, got {low}")
    if high > sample_rate / 2:
        raise ValueError(
            f"{high_key}: expected at most half of audio.sample_rate = {sample_rate / 2:g}, got {high:.10g}"
        )


def _check_fft(n_fft: int | None, window: int) -> None:
    """Raises ValueError for an FFT shorter than the window of so many samples."""
    if n_fft is not None and n_fft < window:
        raise ValueError(f"n_fft: expected at least the window's {window} samples, got {n_fft}")


DEFAULT_FRONTEND = EleafConfig  # of a mapping without `kind`


def _frontend(value: object) -> object:
    return {"kind": tag_of(DEFAULT_FRONTEND), **value} if isinstance(value, dict) else value


FrontendConfig = Annotated[
    EleafConfig | LeafConfig | LogMelConfig | SpectrogramConfig, Field(discriminator="kind"), BeforeValidator(_frontend)
]
