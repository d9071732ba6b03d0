"""Learnable frontends: EfficientLEAF, and the original LEAF.

Sources: Schlüter & Gutenbrunner, "EfficientLEAF: A Faster LEarnable Audio Frontend of Questionable Use", EUSIPCO 2022
(arXiv 2207.05508); Zeghidour et al., "LEAF: A Learnable Frontend for Audio Classification", ICLR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, cast

from torch import Tensor, nn

from hlfeat.config.frontends import EleafConfig, LeafConfig, LogTBNConfig, PCENConfig, RelativeLogConfig
from hlfeat.nn.frontends.base import Frontend, window_and_hop
from hlfeat.nn.frontends.compression import Compression, LogTBN, Quantity
from hlfeat.nn.frontends.gabor import GaborFilterbank
from hlfeat.nn.frontends.pcen import PCEN
from hlfeat.nn.frontends.registry import register
from hlfeat.nn.frontends.relative_log import RelativeLog
from hlfeat.nn.frontends.responses import Responses, gabor_responses
from hlfeat.nn.frontends.scales import Scale, initial_filters, outer_frequencies
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.nn.frontends.taps import Grouping, odd
from hlfeat.nn.masking import Inside


class LearnableFrontend(Frontend):
    """What EfficientLeaf and Leaf have in common: a Gabor filterbank and a learnable compression."""

    def __init__(
        self,
        n_filters: int,
        min_freq: float,
        max_freq: float,
        sample_rate: int,
        window_len: float,
        window_stride: float,
        compression: str | nn.Module,
        scale: Scale | Sequence[float],
        grouping: Grouping | None,
        first_freq: float | None,
        bins_per_octave: float | None,
    ) -> None:
        super().__init__()
        if n_filters < 1:
            raise ValueError(f"expected at least one filter, got n_filters = {n_filters}")
        min_freq, max_freq = outer_frequencies(
            n_filters, min_freq, max_freq, scale, sample_rate, first_freq, bins_per_octave
        )
        if not 0 <= min_freq < max_freq:
            raise ValueError(f"expected 0 <= min_freq < max_freq, got {min_freq} and {max_freq}")
        window, self.hop = window_and_hop(sample_rate, window_len, window_stride)
        self.sample_rate = sample_rate
        self.n_bands = n_filters
        initial = initial_filters(n_filters, min_freq, max_freq, scale, sample_rate)
        self.filterbank = GaborFilterbank(*initial, odd(window), self.hop, grouping)
        self.compression = make_compression(compression, n_filters)
        self.n_channels = self.compression.n_channels if isinstance(self.compression, Compression) else 1
        self.compresses_exactly = isinstance(self.compression, Compression) and self.compression.exact_in_batches

    def centre_freqs(self) -> Tensor:
        return self.filterbank.clamped()[0].detach() * (self.sample_rate / (2 * math.pi))

    def axis_parameters(self) -> list[Tensor]:
        return [self.filterbank.center_freqs]

    def receptive_field(self) -> int:
        return max(g.kernel // 2 + g.window // 2 * g.stride for g in self.filterbank.groups())

    def compute_bands(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        return self.filterbank(x, lengths)  # type: ignore[no-any-return]

    def compress(self, bands: Tensor, frames: Tensor | None, inside: Inside | None = None) -> Tensor:
        if isinstance(self.compression, Compression):
            if inside is None:
                return self.compression(bands, frames)  # type: ignore[no-any-return]
            return self.compression(bands, frames, inside=inside)  # type: ignore[no-any-return]
        return self.compression(bands)  # type: ignore[no-any-return]

    def compress_stream(
        self, chunks: Iterable[Tensor], open_spill: Callable[[], SpillFile], inside: Inside | None = None
    ) -> Iterator[Tensor]:
        if isinstance(self.compression, Compression):
            if inside is None:
                return self.compression.stream(chunks, open_spill)
            return self.compression.stream(chunks, open_spill, inside=inside)
        return map(self.compression, chunks)

    def quantities(self) -> list[Quantity]:
        if isinstance(self.compression, Compression):
            return self.compression.quantities()
        return [Quantity("energy, compressed", "")]

    def responses(self) -> Responses:
        return gabor_responses(self.filterbank, self.sample_rate)

    def multiply_adds(self) -> float:
        return sum(
            (g.stop - g.start) * (2 * (g.kernel + 1) * self.sample_rate / g.stride + g.window * self.frame_rate)
            for g in self.filterbank.groups()
        )

    def compression_summary(self) -> tuple[str, str]:
        if isinstance(self.compression, Compression):
            return self.compression.name, self.compression.depends_on
        return "", ""


@register(EleafConfig)
class EfficientLeaf(LearnableFrontend):
    """EfficientLEAF: grouped learnable Gabor filterbank and a learnable compression.

    Same constructor, defaults and state_dict keys as the published implementation (Schlüter & Gutenbrunner, EUSIPCO
    2022, arXiv 2207.05508), so that trained weights load as they are. The paper's "8G-opt" is num_groups=8,
    conv_win_factor=6, stride_factor=16.

    Args:
        n_filters: bands F.
        num_groups: groups of filters that share a kernel size and a stride.
        min_freq, max_freq: outer edges of the lowest and highest filter, hertz. Centre frequencies above half the
            sample rate are clamped to it.
        sample_rate: hertz.
        window_len, window_stride: pooling window and distance of frames, milliseconds.
        conv_win_factor: kernel size in multiples of a filter's sigma.
        stride_factor: factor on the largest stride that keeps the Nyquist rate of a group's highest filter.
        compression: "logtbn" (C = 2: log energies, and the same less their median over time), "pcen" (C = 1),
            "relative-log" (C = 1, the same at every level), or a module: a `Compression`, or any that maps [B, F, N]
            and treats every frame alone.
        scale: where the filters start: equally spaced in "mel", "linear" (hertz), "log" (octaves), "bark" or "erb";
            read off a matrix of mel filters over FFT bins, as the original LEAF does ("mel-matrix"); or the F centre
            frequencies themselves, rising from min_freq to max_freq.
        first_freq, bins_per_octave: with scale="log", instead of min_freq and max_freq: filter i is at first_freq *
            2^(i / bins_per_octave) hertz, as in a constant-Q transform. bins_per_octave also goes with min_freq. A low
            filter needs a long window: sigmas are clamped to 0.375 window_len.

    Shape:
        - x: samples [B, T] or [B, 1, T]; lengths: [B] samples, or None where every clip is as long as x
        - output: [B, C, F, N], or [B, F, N] for C = 1, with N = (T - 1) // hop + 1 and hop = sample_rate *
          window_stride / 1000 samples; frames past a clip's end are zero

    Raises:
        ValueError: sizes or frequencies of which no filterbank can be made; a waveform of another shape.

    Example:
        >>> import hlfeat, torch
        >>> leaf = hlfeat.EfficientLeaf(n_filters=40, num_groups=8, conv_win_factor=6, stride_factor=16)
        >>> leaf(torch.randn(2, 16000)).shape  # log energies, and the same less their median
        torch.Size([2, 2, 40, 100])
        >>> leaf(torch.randn(2, 16000), lengths=torch.tensor([16000, 8000]))[1, :, :, 50:].any().item()
        False
        >>> [round(f) for f in leaf.centre_freqs()[:3].tolist()]  # hertz
        [106, 155, 207]
        >>> octaves = dict(scale="log", first_freq=110, bins_per_octave=12, window_len=120)
        >>> [round(f) for f in hlfeat.EfficientLeaf(n_filters=37, **octaves).centre_freqs()[::12].tolist()]
        [110, 220, 440, 880]
    """

    def __init__(
        self,
        n_filters: int = 40,
        num_groups: int = 4,
        min_freq: float = 60.0,
        max_freq: float = 7800.0,
        sample_rate: int = 16000,
        window_len: float = 25.0,
        window_stride: float = 10.0,
        conv_win_factor: float = 4.77,
        stride_factor: float = 1.0,
        compression: Literal["logtbn", "pcen", "relative-log"] | nn.Module = "logtbn",
        *,
        scale: Scale | Sequence[float] = "mel",
        first_freq: float | None = None,
        bins_per_octave: float | None = None,
    ) -> None:
        if not 1 <= num_groups <= n_filters:
            raise ValueError(f"expected 1 <= num_groups <= n_filters, got {num_groups} groups of {n_filters} filters")
        grouping = Grouping(num_groups, conv_win_factor, stride_factor)
        super().__init__(
            n_filters,
            min_freq,
            max_freq,
            sample_rate,
            window_len,
            window_stride,
            compression,
            scale,
            grouping,
            first_freq,
            bins_per_octave,
        )

    @classmethod
    def from_config(cls, config: EleafConfig, sample_rate: int) -> EfficientLeaf:
        c = config
        return cls(
            c.n_filters,
            c.num_groups,
            *c.outer_neighbours(),
            sample_rate,
            c.window_len,
            c.window_stride,
            c.conv_win_factor,
            c.stride_factor,
            compression_of(c),
            scale=cast("Scale", c.scale),
        )


@register(LeafConfig)
class Leaf(LearnableFrontend):
    """The original LEAF: every filter has a kernel as long as the pooling window, runs at full rate, then PCEN.

    It takes many times the work of EfficientLeaf; it is here for comparison, and for weights trained with it. Source:
    Zeghidour et al., "LEAF: A Learnable Frontend for Audio Classification", ICLR 2021.

    Args:
        n_filters, min_freq, max_freq, sample_rate, window_len, window_stride, compression, scale, first_freq,
            bins_per_octave: as for EfficientLeaf. The original starts with scale="mel-matrix".

    Shape:
        - x: samples [B, T] or [B, 1, T]; lengths: [B] samples, or None
        - output: [B, F, N] (with "logtbn" [B, 2, F, N]), N = (T - 1) // hop + 1; frames past a clip's end are zero

    Raises:
        ValueError: sizes or frequencies of which no filterbank can be made; a waveform of another shape.

    Example:
        >>> import hlfeat, torch
        >>> hlfeat.Leaf(n_filters=8)(torch.randn(1, 1600)).shape
        torch.Size([1, 8, 10])
    """

    def __init__(
        self,
        n_filters: int = 40,
        min_freq: float = 60.0,
        max_freq: float = 7800.0,
        sample_rate: int = 16000,
        window_len: float = 25.0,
        window_stride: float = 10.0,
        compression: Literal["logtbn", "pcen", "relative-log"] | nn.Module = "pcen",
        *,
        scale: Scale | Sequence[float] = "mel",
        first_freq: float | None = None,
        bins_per_octave: float | None = None,
    ) -> None:
        super().__init__(
            n_filters,
            min_freq,
            max_freq,
            sample_rate,
            window_len,
            window_stride,
            compression,
            scale,
            None,
            first_freq,
            bins_per_octave,
        )

    @classmethod
    def from_config(cls, config: LeafConfig, sample_rate: int) -> Leaf:
        c = config
        return cls(
            c.n_filters,
            *c.outer_neighbours(),
            sample_rate,
            c.window_len,
            c.window_stride,
            compression_of(c),
            scale=cast("Scale", c.scale),
        )


def make_compression(compression: str | nn.Module, n_bands: int) -> nn.Module:
    """The compression of that name, with the published constants, or the module itself."""
    if isinstance(compression, nn.Module):
        return compression
    if compression == "logtbn":
        return LogTBN(n_bands, a=5, trainable=True, per_band=True, median_filter=True, append_filtered=True)
    if compression == "pcen":
        return PCEN(n_bands, s=0.04, alpha=0.96, delta=2.0, r=0.5, eps=1e-12, learn_logs=False, clamp=1e-5)
    if compression == "relative-log":
        return RelativeLog(n_bands)
    raise ValueError(f'expected compression "logtbn", "pcen", "relative-log" or a module, got {compression!r}')


COMPRESSIONS: dict[type, Callable[..., Compression]] = {
    LogTBNConfig: LogTBN,
    PCENConfig: PCEN,
    RelativeLogConfig: RelativeLog,
}


def compression_of(config: EleafConfig | LeafConfig) -> Compression:
    """The compression that a configuration describes."""
    return COMPRESSIONS[type(config.compression)](config.n_filters, **config.compression.model_dump(exclude={"kind"}))
