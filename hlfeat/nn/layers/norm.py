"""Normalisation and activation layers of a stack."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlfeat.nn.layers.base import Layer
from hlfeat.nn.masking import batch_norm, frame_mask, mask_frames


class BatchNorm(Layer):
    """Batch normalisation of each channel over clips, bands and existing frames."""

    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, affine=affine)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if not self.bn.training:  # no statistics to take, so no frames to tell apart
            bn = self.bn
            y = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
            return mask_frames(y, frames), frames
        mask = None
        if frames is not None:
            mask = frame_mask(frames, x.shape[-1])[:, None].expand(-1, x.shape[2], -1).reshape(x.shape[0], -1)
        y = batch_norm(self.bn, x.flatten(2), mask).view_as(x)
        return mask_frames(y, frames), frames


class LayerNorm(Layer):
    """Normalisation of each frame over its channels and bands."""

    def __init__(self, channels: int, bands: int, affine: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm([channels, bands], elementwise_affine=affine)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        y = self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mask_frames(y, frames), frames


class InstanceNorm(Layer):
    """Normalisation of each channel over the bands and frames of its clip. Not local in time: needs the whole clip."""

    reach = None

    def __init__(self, channels: int, affine: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        count: Tensor | int = x.shape[2] * x.shape[3]
        if frames is not None:
            count = (x.shape[2] * frames.clamp(min=1))[:, None, None, None]
        mean = x.sum((2, 3), keepdim=True) / count  # padding is zero, so only existing frames are summed
        centred = mask_frames(x - mean, frames)
        y = centred * torch.rsqrt(centred.square().sum((2, 3), keepdim=True) / count + self.eps)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return mask_frames(y, frames), frames


class Activation(Layer):
    """Pointwise nonlinearity; what it makes of zero must not fill the padding."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return mask_frames(self.module(x), frames), frames
