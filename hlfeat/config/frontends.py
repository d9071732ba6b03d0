"""Configuration of frontends and their compression."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from hlfeat.config.base import Flag, NotNegative, Positive, StrictModel, Whole, names_in, tag_of
from hlfeat.config.filters import FiltersConfig, WindowConfig, check_range
from hlfeat.text import nearest, shown

COMPRESSION_KINDS = "logtbn, pcen or relative-log"
LogExponent = Annotated[float, Field(strict=True, ge=-30, le=30)]


class LogTBNConfig(StrictModel):
    """log(1 + 10^a x), median filter over time, temporal batch norm."""

    kind: Literal["logtbn"] = Field(default="logtbn", description=COMPRESSION_KINDS)
    affine: Flag = Field(default=True, description="the batch norm has a trainable scale and offset")
    a: LogExponent = Field(default=5.0, description="exponent in log(1 + 10^a x)")
    trainable: Flag = Field(default=True, description="a is a parameter")
    per_band: Flag = Field(default=True, description="each band has an a of its own")
    median_filter: Flag = Field(default=True, description="subtract each band's median over the clip")
    append_filtered: Flag = Field(
        default=True, description="keep the unfiltered bands, the filtered ones are a second channel"
    )


class PCENConfig(StrictModel):
    """Per-channel energy normalisation."""

    kind: Literal["pcen"] = Field(default="pcen", description=COMPRESSION_KINDS)
    s: Annotated[float, Field(strict=True, gt=0, le=1)] = Field(
        default=0.04, description="smoothing coefficient over frames"
    )
    alpha: Positive = Field(default=0.96, description="exponent of the gain")
    delta: Positive = Field(default=2.0, description="offset before the root")
    r: Annotated[float, Field(strict=True, gt=0, le=1)] = Field(default=0.5, description="exponent of the root")
    eps: Positive = Field(default=1e-12, description="added to the smoothed energy")
    learn_logs: Flag = Field(default=False, description="store the parameters' logarithms")
    clamp: NotNegative | None = Field(default=1e-5, description="energies are first raised to this; null: not at all")


class RelativeLogConfig(StrictModel):
    """log(1 + 10^a x / m), m the mean of a frame's bands: the same at every level."""

    kind: Literal["relative-log"] = Field(default="relative-log", description=COMPRESSION_KINDS)
    a: LogExponent = Field(default=1.5, description="exponent in log(1 + 10^a x / m)")
    trainable: Flag = Field(default=False, description="a is a parameter")
    per_band: Flag = Field(default=False, description="each band has an a of its own")


AnyCompression = LogTBNConfig | PCENConfig | RelativeLogConfig


def _compression(value: object) -> object:
    if isinstance(value, str):
        names = names_in(AnyCompression)
        if value not in names:
            raise ValueError(
                f"expected {', '.join(names[:-1])} or {names[-1]}, got {shown(value)}{nearest(value, names)}"
            )
        return {"kind": value}
    return value


CompressionConfig = Annotated[AnyCompression, Field(discriminator="kind"), BeforeValidator(_compression)]


COMPRESSIONS = "logtbn, pcen, relative-log, or a mapping with their constants"


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
        check_range(self.min_freq, self.max_freq, "max_freq", sample_rate)
        _check_fft(self.n_fft, self.window_samples(sample_rate))

    def frequency_range(self, sample_rate: int) -> tuple[float, float]:
        return self.min_freq, self.max_freq


class SpectrogramConfig(WindowConfig):
    """Log power spectrogram of torchaudio: a linear frequency axis from 0 Hz."""

    kind: Literal["spectrogram"] = Field(default="spectrogram", description="eleaf, leaf, log-mel or spectrogram")
    n_fft: Whole | None = Field(default=None, description=FFT)
    n_bands: Whole | None = Field(default=None, description="keep so many rows, the lowest; null: all n_fft / 2 + 1")
    floor: Positive = Field(default=1e-6, description="added before the logarithm")

    def check_rate(self, sample_rate: int) -> None:
        super().check_rate(sample_rate)
        _check_fft(self.n_fft, self.window_samples(sample_rate))
        rows = self.fft_size(sample_rate) // 2 + 1
        if self.n_bands is not None and self.n_bands > rows:
            raise ValueError(f"n_bands: expected at most the FFT's {rows} rows, got {self.n_bands}")

    def frequency_range(self, sample_rate: int) -> tuple[float, float]:
        size = self.fft_size(sample_rate)
        return 0.0, ((self.n_bands or size // 2 + 1) - 1) * sample_rate / size

    def fft_size(self, sample_rate: int) -> int:
        """The FFT size in samples."""
        return self.n_fft or 1 << (self.window_samples(sample_rate) - 1).bit_length()


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
