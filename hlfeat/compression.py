"""What follows the filterbank: logarithm with temporal batch norm, or per-channel energy normalisation (PCEN).

Sources: Schlüter & Gutenbrunner, "EfficientLEAF", EUSIPCO 2022, section 3; Wang et al., "Trainable Frontend For Robust
and Far-Field Keyword Spotting", ICASSP 2017 (PCEN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlfeat.gabor import clamp_keep_grad
from hlfeat.masking import batch_norm, frame_mask
from hlfeat.spool import Spool
from hlfeat.tracers import exporting


class Compression(nn.Module):
    """A compression that can tell existing frames from padding: forward(x [B, F, N], frames [B] or None).

    `n_channels` is C of the output: [B, F, N] for one channel, [B, C, F, N] for more.
    """

    n_channels = 1

    def stream(self, pieces: Iterable[Tensor], spool: Callable[[], Spool]) -> Iterator[Tensor]:
        """One clip in pieces of [1, F, n], in order. As it is here, for what treats every frame alone."""
        return map(self, pieces)


def median_over_time(x: Tensor, frames: Tensor | None) -> Tensor:
    """Median of each band's existing frames; of an even count the lower of the two middle values, as torch.median.

    Shape: x [B, F, N], frames [B] or None -> [B, F, 1].
    """
    if frames is None and exporting():  # ONNX knows no median
        index = torch.full((1,), (x.shape[-1] - 1) // 2, device=x.device)
        return x.sort(dim=-1).values.index_select(-1, index)
    if frames is None:
        on_host = torch.is_inference_mode_enabled() and x.device.type == "cpu" and x.dtype == torch.float32
        if on_host and not torch.compiler.is_compiling() and not bool(x.isnan().any()):
            middle = (x.shape[-1] - 1) // 2
            found = np.partition(x.numpy(), middle)[..., middle, None]  # takes a tenth of torch's time
            return torch.from_numpy(np.ascontiguousarray(found))
        return x.median(dim=-1, keepdim=True).values
    mask = frame_mask(frames, x.shape[-1])[:, None]  # [B, 1, N]
    ordered = x.masked_fill(~mask, torch.inf).sort(dim=-1).values
    half = (frames - 1).clamp(min=0).div(2, rounding_mode="floor")  # [B]
    return ordered.gather(-1, half[:, None, None].expand(-1, x.shape[1], 1))


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

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        mask = None if frames is None else frame_mask(frames, x.shape[-1])
        assert self.bn.running_mean is not None  # statistics are tracked
        flat = x.reshape(x.shape[0], -1, x.shape[-1]).to(self.bn.running_mean.dtype)  # [B, C * F, N]
        return batch_norm(self.bn, flat, mask).view_as(x)


class LogTBN(Compression):
    """log(1 + 10^a x), optionally with the median over time removed, then temporal batch norm.

    Args:
        num_bands: bands F.
        affine: the batch norm has a trainable scale and offset.
        a: exponent of the factor in front of x.
        trainable, per_band: whether a is a parameter, and whether each band has its own.
        median_filter: subtract each band's median over time.
        append_filtered: keep the unfiltered bands and append the filtered ones as a second channel.

    Shape: x [B, F, N], frames [B] or None -> [B, F, N], or [B, 2, F, N] with append_filtered.
    """

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
        self.TBN = TemporalBatchNorm(self.n_channels * num_bands, affine)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        x = self.log1p(x)
        return self._normalise(x, median_over_time(x, frames) if self.median_filter else None, frames)

    def _normalise(self, x: Tensor, median: Tensor | None, frames: Tensor | None = None) -> Tensor:
        if median is not None:
            filtered = x - median
            x = torch.stack([x, filtered], dim=1) if self.append_filtered else filtered
        return self.TBN(x, frames)  # type: ignore[no-any-return]

    def stream(self, pieces: Iterable[Tensor], spool: Callable[[], Spool]) -> Iterator[Tensor]:
        if not self.median_filter:
            yield from map(self, pieces)
            return
        with spool() as logs:  # the median is known after the last piece
            for piece in pieces:
                logs.append(self.log1p(piece))
            median = logs.median()
            for x in logs:
                yield self._normalise(x, median)


BLOCK = 32  # frames that one triangular product covers


def smooth(x: Tensor, s: Tensor, before: Tensor | None = None) -> Tensor:
    """M_t = (1 - s) M_{t-1} + s x_t with M_0 = x_0, or from M_{-1} = `before` on, per band.

    As a recursion from rest, whose first input is x_0 / s. (Smoothing x - x_0 and adding x_0 back would do too, but
    cancels catastrophically where a loud first frame is followed by silence.)

    Shape: x [B, F, N], s [F], before [B, F, 1] or None -> [B, F, N].
    """
    first = x[..., :1]
    if before is not None:
        first = (1 - s[:, None]) * before + s[:, None] * first
    start = torch.cat([first, s[:, None] * x[..., 1:]], dim=-1)
    if exporting():
        return doubling_sum(start, 1 - s)
    return decaying_sum(start, 1 - s)


def decaying_sum(x: Tensor, a: Tensor) -> Tensor:
    """y_t = a y_{t-1} + x_t from rest, in log N steps: blocks by a product, their carries by the same recursion.

    Only powers of `a` are multiplied, so nothing grows with N where |a| <= 1.

    Shape: x [B, F, N], a [F] -> [B, F, N].
    """
    n = x.shape[-1]
    if n <= BLOCK:
        return torch.matmul(x.unsqueeze(-2), powers(a, n)).squeeze(-2)
    count = n // BLOCK + 1
    blocks = F.pad(x, (0, count * BLOCK - n)).reshape(*x.shape[:2], count, BLOCK)  # [B, F, count, BLOCK]
    inside = blocks @ powers(a, BLOCK)
    carry = decaying_sum(inside[..., -1], a**BLOCK)  # [B, F, count]
    before = F.pad(carry[..., :-1], (1, 0)).unsqueeze(-1)
    steps = torch.arange(1, BLOCK + 1, device=a.device)
    return (inside + before * (a[:, None] ** steps)[:, None]).flatten(-2)[..., :n]


DOUBLINGS = 20  # 2^20 frames: nearly three hours of 10 ms


def doubling_sum(x: Tensor, a: Tensor) -> Tensor:
    """The same for tracers that do not know N: sums over 1, 2, 4, ... frames, each from two of the one before.

    Frames further back than 2^DOUBLINGS are left out; their share a^(2^DOUBLINGS) is zero in float32 where a < 0.9999.

    Shape: x [B, F, N], a [F] -> [B, F, N].
    """
    n = x.shape[-1]
    for i in range(DOUBLINGS):
        x = x + (a ** (1 << i))[:, None] * F.pad(x, (1 << i, 0))[..., :n]
    return x


def powers(a: Tensor, n: int) -> Tensor:
    """The matrix that sums up n frames, each decayed by its age: entry (j, i) is a^(i - j) for i >= j.

    Shape: a [F] -> [F, n, n].
    """
    age = torch.arange(n, device=a.device)
    age = age - age[:, None]
    return torch.where(age >= 0, a[:, None, None] ** age.clamp(min=0), 0.0)


class PCEN(Compression):
    """Per-channel energy normalisation: y = (x / (eps + M)^alpha + delta)^r - delta^r, M the smoothed x.

    Args:
        num_bands: bands F; every parameter exists once a band.
        s: smoothing coefficient, 0 < s <= 1.
        alpha, delta, r: gain exponent, offset, root.
        eps: added to M.
        learn_logs: store the parameters' logarithms. Otherwise r is stored as 1 / r, and alpha is clamped to <= 1,
            delta to >= 0, the stored r to >= 1.
        clamp: x is first raised to at least this.

    Shape: x [B, F, N], frames [B] or None -> [B, F, N]. Frames depend on earlier frames only.
    """

    def __init__(
        self,
        num_bands: int,
        s: float = 0.025,
        alpha: float = 1.0,
        delta: float = 1.0,
        r: float = 1.0,
        eps: float = 1e-6,
        learn_logs: bool = True,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.learn_logs = learn_logs
        self.clamp = clamp

        def parameter(value: float) -> nn.Parameter:
            stored = torch.full((num_bands,), float(value))
            return nn.Parameter(stored.log() if learn_logs else stored)

        self.s = parameter(s)
        self.alpha = parameter(alpha)
        self.delta = parameter(delta)
        self.r = parameter(r if learn_logs else 1 / r)

    def values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """s, alpha, delta and r as the formula uses them: 4 x [F]."""
        if self.learn_logs:
            return self.s.exp(), self.alpha.exp(), self.delta.exp(), self.r.exp()
        return (
            self.s,
            clamp_keep_grad(self.alpha, None, 1.0),
            clamp_keep_grad(self.delta, 0.0, None),
            1 / clamp_keep_grad(self.r, 1.0, None),
        )

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        return self._normalise(x, None)[0]

    def stream(self, pieces: Iterable[Tensor], spool: Callable[[], Spool]) -> Iterator[Tensor]:
        smoothed = None
        for piece in pieces:
            y, smoothed = self._normalise(piece, smoothed)
            yield y

    def _normalise(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output, and M of the last frame: [B, F, N], [B, F, 1]."""
        with torch.autocast(x.device.type, enabled=False):
            s, alpha, delta, r = self.values()
            x = x.to(s.dtype)
            if self.clamp is not None:
                x = x.clamp(min=self.clamp)
            smoothed = smooth(x, s, before)
            gain = (self.eps + smoothed) ** -alpha[:, None]
            delta, r = delta[:, None], r[:, None]
            return (x * gain + delta) ** r - delta**r, smoothed[..., -1:]
