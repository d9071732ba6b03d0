"""Frames past a clip's end count as absent: masks, and batch normalisation that leaves those frames out."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Count = TypeVar("Count", int, Tensor)  # of samples or frames: a clip's, or those of several


def frame_mask(frames: Tensor, n: int) -> Tensor:
    """Which of `n` frames exist, for clips of different lengths in one batch.

    Args:
        frames: of each clip, such as `extractor.num_frames(lengths)`.
        n: frames of the batch.

    Shape: frames int64 [B] -> bool [B, n], on the device of `frames`.

    >>> import torch
    >>> frame_mask(torch.tensor([1, 3]), 3)
    tensor([[ True, False, False],
            [ True,  True,  True]])
    """
    return torch.arange(n, device=frames.device) < frames[:, None]


def past_end(counts: Tensor, n: int) -> Tensor:
    """Which of `n` samples or frames lie past their clip's end: what `frame_mask` has false, in one operation less.

    Shape: counts int64 [B] -> bool [B, n].
    """
    return torch.arange(n, device=counts.device) >= counts[:, None]


class Inside(NamedTuple):
    """Which frames are a clip's own, where some before and after it are computed with it.

    Attributes:
        first: of all clips of a batch.
        n: of the longest clip.
        frames: [B], of each clip; None: all clips have n.
    """

    first: int
    n: int
    frames: Tensor | None = None

    def of(self, x: Tensor) -> Tensor:
        """The frames of the longest clip; what follows a shorter one may be anything. Shape: [..., N] -> [..., n]."""
        return x[..., self.first : self.first + self.n]


def mask_frames(x: Tensor, frames: Tensor | None) -> Tensor:
    """Set the frames past each clip's end to zero.

    Shape: x [B, ..., N], frames [B] (None: every frame exists) -> [B, ..., N].
    """
    if frames is None:
        return x
    return zero_where(past_end(frames, x.shape[-1]), x)


def zero_where(absent: Tensor, x: Tensor) -> Tensor:
    """Shape: absent bool [B, N], x [B, ..., N] -> [B, ..., N]."""
    return x.masked_fill(absent.view(x.shape[0], *[1] * (x.dim() - 2), x.shape[-1]), 0.0)


def batch_norm(bn: nn.BatchNorm1d, x: Tensor, mask: Tensor | None) -> Tensor:
    """`bn(x)` with batch statistics over the positions where `mask` is true.

    In eval mode the running statistics decide and the mask has no say. The running variance is updated with the
    unbiased estimate, as torch does.

    Shape: x [B, C, N], mask bool [B, N] or None -> [B, C, N].
    """
    if mask is None or not bn.training:
        return bn(x)  # type: ignore[no-any-return]
    weight = mask[:, None].to(x.dtype)  # [B, 1, N]
    count = weight.sum().clamp(min=1)
    mean = (x * weight).sum((0, 2)) / count  # [C]
    centred = x - mean[:, None]
    var = (centred.square() * weight).sum((0, 2)) / count  # [C], biased, as in the forward pass of torch
    if bn.track_running_stats and bn.running_mean is not None and bn.running_var is not None:
        with torch.no_grad():
            assert bn.num_batches_tracked is not None
            bn.num_batches_tracked += 1
            momentum = 1 / bn.num_batches_tracked if bn.momentum is None else bn.momentum
            bn.running_mean += momentum * (mean - bn.running_mean)
            bn.running_var += momentum * (var * count / (count - 1).clamp(min=1) - bn.running_var)
    y = centred * torch.rsqrt(var + bn.eps)[:, None]
    return y if bn.weight is None else y * bn.weight[:, None] + bn.bias[:, None]
