"""Compression of a filterbank's energies: the interface, and logarithm with temporal batch norm (LogTBN).

PCEN and RelativeLog, the others, are in hlfeat/nn/frontends/{pcen,relative_log}.py. Source: Schlüter & Gutenbrunner,
"EfficientLEAF", EUSIPCO 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hlfeat.nn._private_torch import differentiated_elsewhere, exporting, operations_watched
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.nn.masking import Inside, batch_norm, frame_mask, past_end


class Quantity(NamedTuple):
    """What a channel of features is, in words, and its unit."""

    name: str
    unit: str


class Compression(nn.Module):
    """Base class of compressions that tell existing frames from padding: forward(x [B, F, N], frames [B] or None).

    One that depends on the whole clip takes `inside` too, in `forward` and `stream`: frames that are not inside are
    compressed as the clip's, but have no say in what is found out about the clip.

    Attributes:
        n_channels: C of the output: [B, F, N] for one channel, [B, C, F, N] for more.
        name: as in a configuration.
        depends_on: which frames one frame's output depends on beside its own: "", "all before" or "whole clip".
        exact_in_batches: whether a clip comes out of a batch of clips of its length, in eval mode on a CPU, as it does
            alone, to the bit. Where it does not, a run compresses clips one by one.
    """

    n_channels = 1
    name = ""
    depends_on = ""
    exact_in_batches = False

    def stream(
        self, chunks: Iterable[Tensor], open_spill: Callable[[], SpillFile], inside: Inside | None = None
    ) -> Iterator[Tensor]:
        """One clip in chunks of [1, F, n], in order. As it is here, for what treats every frame alone."""
        return map(self, chunks)

    def quantities(self) -> list[Quantity]:
        """What each channel is, and its unit."""
        return [Quantity("energy, compressed", "")] * self.n_channels


def median_over_time(x: Tensor, frames: Tensor | None) -> Tensor:
    """Median of each band's existing frames; of an even count the lower of the two middle values, as torch.median.

    Shape: x [B, F, N], frames [B] or None -> [B, F, 1].
    """
    if frames is None and exporting():  # ONNX knows no median
        index = torch.full((1,), (x.shape[-1] - 1) // 2, device=x.device)
        return x.sort(dim=-1).values.index_select(-1, index)
    if frames is None:
        return median_on_host(x) if plain_on_host(x) else x.median(dim=-1, keepdim=True).values
    absent = past_end(frames, x.shape[-1])[:, None]  # [B, 1, N]
    ordered = x.masked_fill(absent, torch.inf).sort(dim=-1).values
    half = (frames - 1).clamp(min=0).div(2, rounding_mode="floor")  # [B]
    return ordered.gather(-1, half[:, None, None].expand(-1, x.shape[1], 1))


def plain_on_host(x: Tensor) -> bool:
    """Whether numpy may look at the values: ordinary float32 on a CPU, nobody traces, and none is NaN."""
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    if not plain or torch.compiler.is_compiling() or operations_watched() or differentiated_elsewhere(x):
        return False
    # a maximum is NaN where any value is, and takes a sixth of the time of looking for one
    return not np.isnan(x.detach().numpy().max())


def median_on_host(x: Tensor) -> Tensor:
    """numpy takes a tenth of the time of torch's median. The gradient goes to the first frame that has the value.

    Shape: [B, F, N] -> [B, F, 1].
    """
    values = x.detach().numpy()
    middle = (x.shape[-1] - 1) // 2
    medians = np.partition(values, middle)[..., middle, None]
    if not (torch.is_grad_enabled() and x.requires_grad):
        return torch.from_numpy(np.ascontiguousarray(medians))
    return x.gather(-1, torch.from_numpy((values == medians).argmax(-1, keepdims=True)))


class Log1p(nn.Module):
    """log(1 + 10^a x), a trainable or not, one for all bands or one each."""

    def __init__(self, num_bands: int, a: float, trainable: bool, per_band: bool) -> None:
        super().__init__()
        value = torch.full((num_bands,), float(a)) if per_band else torch.tensor(float(a))
        if trainable:
            self.a: Tensor = nn.Parameter(value)
        else:  # a constant of the model, so no part of its state
            self.register_buffer("a", value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, F, N]
        a = self.a[:, None] if self.a.dim() else self.a
        return torch.log1p(10**a * x)


class TemporalBatchNorm(nn.Module):
    """Batch normalisation of each band (of each channel) over clips and time; padding does not count.

    Shape: x [B, F, N] or [B, C, F, N], frames [B] or None -> the same as x.
    """

    def __init__(self, num_bands: int, affine: bool = True) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(num_bands, affine=affine)

    def is_identity(self) -> bool:
        """Whether the statistics and the scale are those of a new module: features are as they were before, then."""
        state, new = self.bn.state_dict(), {"running_mean": 0, "running_var": 1, "weight": 1, "bias": 0}
        return all(bool((state[name] == value).all()) for name, value in new.items() if name in state)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        mask = None if frames is None else frame_mask(frames, x.shape[-1])
        assert self.bn.running_mean is not None  # statistics are tracked
        flat = x.reshape(x.shape[0], -1, x.shape[-1]).to(self.bn.running_mean.dtype)  # [B, C * F, N]
        return batch_norm(self.bn, flat, mask).view_as(x)


class LogTBN(Compression):
    """log(1 + 10^a x), optionally less its median over time, then temporal batch norm ("TBN").

    Source: Schlüter & Gutenbrunner, "EfficientLEAF", EUSIPCO 2022 (arXiv 2207.05508), section 3. EfficientLeaf's
    "logtbn" is LogTBN(F, a=5, trainable=True, per_band=True, median_filter=True, append_filtered=True).

    Args:
        num_bands: bands F.
        affine: the batch norm has a trainable scale and offset.
        a: exponent of the factor in front of x.
        trainable, per_band: whether a is a parameter, and whether each band has its own.
        median_filter: subtract each band's median over the clip's frames; of an even count the lower of the two
            middle values.
        append_filtered: with median_filter, keep the unfiltered bands too: they are the first channel, the filtered
            ones the second.

    Shape: x [B, F, N], energies, not negative; frames [B] that exist, or None for all -> [B, F, N], or [B, 2, F, N]
        with append_filtered. In training mode the statistics are those of existing frames.

    Example:
        >>> import hlfeat, torch
        >>> compress = hlfeat.LogTBN(40, a=5, median_filter=True, append_filtered=True)
        >>> compress(torch.rand(2, 40, 100)).shape
        torch.Size([2, 2, 40, 100])
    """

    name = "logtbn"
    exact_in_batches = True

    def __init__(
        self,
        num_bands: int,
        affine: bool = True,
        a: float = 0,
        trainable: bool = False,
        per_band: bool = False,
        median_filter: bool = False,
        append_filtered: bool = False,
    ) -> None:
        super().__init__()
        self.log1p = Log1p(num_bands, a, trainable, per_band)
        self.median_filter = median_filter
        self.append_filtered = append_filtered
        self.n_channels = 2 if median_filter and append_filtered else 1
        self.depends_on = "whole clip" if median_filter else ""
        self.TBN = TemporalBatchNorm(self.n_channels * num_bands, affine)

    def quantities(self) -> list[Quantity]:
        unfiltered = Quantity("log energy", "ln(1 + 10ᵃE)")
        filtered = Quantity("log energy less its median over the clip", "difference")
        channels = [unfiltered, filtered] if self.n_channels == 2 else [filtered if self.median_filter else unfiltered]
        if self.TBN.is_identity():
            return channels
        return [Quantity(f"{channel.name}, normalised", "") for channel in channels]

    def forward(self, x: Tensor, frames: Tensor | None = None, inside: Inside | None = None) -> Tensor:
        x = self.log1p(x)
        if not self.median_filter:
            return self._normalise(x, None, frames)
        clip, clip_frames = (x, frames) if inside is None else (inside.of(x), inside.frames)
        return self._normalise(x, median_over_time(clip, clip_frames), frames)

    def _normalise(self, x: Tensor, median: Tensor | None, frames: Tensor | None = None) -> Tensor:
        if median is not None:
            filtered = x - median
            x = torch.stack([x, filtered], dim=1) if self.append_filtered else filtered
        return self.TBN(x, frames)  # type: ignore[no-any-return]

    def stream(
        self, chunks: Iterable[Tensor], open_spill: Callable[[], SpillFile], inside: Inside | None = None
    ) -> Iterator[Tensor]:
        if not self.median_filter:
            yield from map(self, chunks)
            return
        with open_spill() as logs:  # the median is known after the last chunk
            for chunk in chunks:
                logs.append(self.log1p(chunk))
            median = logs.median() if inside is None else logs.median(inside.first, inside.n)
            for x in logs:
                yield self._normalise(x, median)
