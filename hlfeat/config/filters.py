"""Configuration of a filterbank's filters and of its frames: where filters start, and what cannot be.

The checks are functions of plain numbers, as the modules' constructors make them too.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from hlfeat.config.base import Milliseconds, NotNegative, Positive, StrictModel, Whole, only_with, value_given
from hlfeat.text import nearest, shown


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

    def frequency_range(self, sample_rate: int) -> tuple[float, float]:
        """Lowest and highest frequency of the bands, hertz, as the configuration gives them."""
        raise NotImplementedError

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


DEFAULT_MIN_FREQ, DEFAULT_MAX_FREQ = 60.0, 7800.0
LEAST_FIRST_FREQ = 1e-3  # hertz
BINS_RANGE = (0.1, 10000.0)
MOST_OCTAVES = 64.0  # between filters; beyond all sample rates, and 2^64 is still a number
FILTERS_PER_OCTAVE = ("bins_per_octave", "filters_per_octave")
# a default min_freq or max_freq counts as one that is not given
FILTER_RULES: list[dict[str, Any]] = [
    {
        "if": {"required": ["scale"], "properties": {"scale": {"const": "log"}}},
        "then": {"properties": {"min_freq": {"exclusiveMinimum": 0}}},
    },
    *(only_with(key, "scale", "log") for key in ("first_freq", *FILTERS_PER_OCTAVE)),
    *(
        {"if": value_given(key, "number"), "then": {"properties": {"max_freq": {"const": DEFAULT_MAX_FREQ}}}}
        for key in FILTERS_PER_OCTAVE
    ),
    {"not": {"allOf": [value_given(key, "number") for key in FILTERS_PER_OCTAVE]}},
    {
        "if": value_given("first_freq", "number"),
        "then": {
            "required": ["bins_per_octave"],
            "properties": {"min_freq": {"const": DEFAULT_MIN_FREQ}, "bins_per_octave": {"type": "number"}},
        },
    },
]


FirstFreq = Annotated[float, Field(strict=True, ge=LEAST_FIRST_FREQ, allow_inf_nan=False)]
BinsPerOctave = Annotated[float, Field(strict=True, ge=BINS_RANGE[0], le=BINS_RANGE[1])]


class FiltersConfig(WindowConfig):
    """Learnable Gabor filters and where they start."""

    schema_rules: ClassVar[dict[str, Any]] = {"allOf": FILTER_RULES}

    n_filters: Whole = Field(default=40, description="bands")
    min_freq: NotNegative = Field(default=DEFAULT_MIN_FREQ, description="hertz; lower neighbour of the lowest filter")
    max_freq: Positive = Field(default=DEFAULT_MAX_FREQ, description="hertz; upper neighbour of the highest filter")
    scale: ScaleOrFreqs = Field(
        default="mel", description=f"where filters start: {', '.join(SCALES)}, or a list of hertz"
    )
    first_freq: FirstFreq | None = Field(
        default=None, description="hertz; the lowest filter itself, with bins_per_octave, instead of min_freq"
    )
    bins_per_octave: BinsPerOctave | None = Field(
        default=None, description="filters in an octave, with scale: log, instead of max_freq"
    )
    filters_per_octave: Positive | None = Field(default=None, description="the older name of bins_per_octave")

    @model_serializer(mode="wrap")
    def _without_unused_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plain data, which fingerprints are made of: keys that came later are left out where they are not used."""
        later = ("first_freq", "bins_per_octave")
        return {key: value for key, value in dump(self).items() if key not in later or value is not None}

    @model_validator(mode="after")
    def _rising(self) -> FiltersConfig:
        if self.bins_per_octave is not None and self.filters_per_octave is not None:
            raise ValueError("filters_per_octave: is the older name of bins_per_octave; expected one, got both")
        check_octaves(self.scale, self.min_freq, self.max_freq, self.first_freq, self.bins_per_octave)
        check_octaves(self.scale, self.min_freq, self.max_freq, None, self.filters_per_octave, "filters_per_octave")
        if self.scale == "log" and self.min_freq == 0:
            raise ValueError("min_freq: expected a frequency above 0 for scale log, got 0")
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
        if self.first_freq is not None and self.bins_per_octave is not None:
            check_highest(self.n_filters, self.first_freq, self.bins_per_octave, sample_rate)
        else:
            key = next((key for key in FILTERS_PER_OCTAVE if getattr(self, key) is not None), "max_freq")
            check_range(self.min_freq, self.outer_neighbours()[1], key, sample_rate)

    def outer_neighbours(self) -> tuple[float, float]:
        """Lower neighbour of the lowest filter and upper neighbour of the highest, hertz."""
        bins = self.filters_per_octave if self.bins_per_octave is None else self.bins_per_octave
        return outer_neighbours(self.n_filters, self.min_freq, self.max_freq, self.first_freq, bins)

    def frequency_range(self, sample_rate: int) -> tuple[float, float]:
        if self.first_freq is not None and self.bins_per_octave is not None:
            return self.first_freq, highest_filter(self.n_filters, self.first_freq, self.bins_per_octave)
        return self.outer_neighbours()

    def spacing_per_octave(self) -> float | None:
        """Filters in an octave, if they are spaced so."""
        if self.scale != "log":
            return None
        low, high = self.outer_neighbours()
        return self.bins_per_octave or (self.n_filters + 1) / math.log2(high / low)


def check_octaves(
    scale: object,
    min_freq: float,
    max_freq: float,
    first_freq: float | None,
    bins: float | None,
    bins_key: str = "bins_per_octave",
) -> None:
    """Raises ValueError for a first filter and filters in an octave that contradict the other frequencies."""
    for key, value in (("first_freq", first_freq), (bins_key, bins)):
        if value is not None and scale != "log":
            raise ValueError(f"{key}: expected only with scale: log, got it with {shown(scale)}")
    if bins is not None and max_freq != DEFAULT_MAX_FREQ:
        raise ValueError(f"{bins_key}: expected instead of max_freq, got both")
    if first_freq is not None and min_freq != DEFAULT_MIN_FREQ:
        raise ValueError("first_freq: expected instead of min_freq, got both")
    if first_freq is not None and bins is None:
        raise ValueError("first_freq: expected together with bins_per_octave, such as 12")


def outer_neighbours(
    n_filters: int, min_freq: float, max_freq: float, first_freq: float | None, bins: float | None
) -> tuple[float, float]:
    """Lower neighbour of the lowest filter and upper neighbour of the highest, hertz; `bins` filters in an octave."""
    if bins is None:
        return min_freq, max_freq
    low = min_freq if first_freq is None else first_freq * float(2.0 ** (-1 / bins))
    return low, low * float(2.0 ** min(MOST_OCTAVES, (n_filters + 1) / bins))


def highest_filter(n_filters: int, first_freq: float, bins: float) -> float:
    """The highest filter, hertz, where filter i is at first_freq * 2^(i / bins)."""
    return first_freq * float(2.0 ** min(MOST_OCTAVES, (n_filters - 1) / bins))


def check_highest(n_filters: int, first_freq: float, bins: float, sample_rate: int) -> None:
    """Raises ValueError for a filter at half of the sample rate or above."""
    half = sample_rate / 2
    if first_freq >= half:
        raise ValueError(f"first_freq: expected below half of the sample rate, {half:g} Hz, got {first_freq:g}")
    highest = highest_filter(n_filters, first_freq, bins)
    if highest >= half:
        fit = math.ceil(bins * math.log2(half / first_freq))
        raise ValueError(
            f"n_filters: expected the highest filter below half of the sample rate, {half:g} Hz, got {highest:g} Hz; "
            f"{fit} filters fit"
        )


def check_range(low: float, high: float, high_key: str, sample_rate: int) -> None:
    """Raises ValueError for a frequency range that is empty, or above half of the sample rate."""
    if low >= high:
        raise ValueError(f"min_freq: expected less than max_freq = {high:g}, got {low}")
    if high > sample_rate / 2:
        raise ValueError(
            f"{high_key}: expected at most half of audio.sample_rate = {sample_rate / 2:g}, got {high:.10g}"
        )
