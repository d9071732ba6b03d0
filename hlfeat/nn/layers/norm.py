"""Normalisation and activation layers of a stack."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlfeat.config.layers import ActivationConfig, NormConfig
from hlfeat.nn.layers.base import Layer, LayerInput
from hlfeat.nn.layers.registry import build_layer
from hlfeat.nn.masking import batch_norm, frame_mask, mask_frames

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}


class BatchNorm(Layer):
    """Batch normalisation of each channel over clips, bands and existing frames."""

    drawn = False

    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, affine=affine)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if not self.bn.training:  # the running statistics decide, so no mask is needed
            bn = self.bn
            y = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
            return mask_frames(y, frames), frames
        mask = None
        if frames is not None:
            mask = frame_mask(frames, x.shape[-1])[:, None].expand(-1, x.shape[2], -1).reshape(x.shape[0], -1)
        y = batch_norm(self.bn, x.flatten(2), mask).view_as(x)
        return mask_frames(y, frames), frames

    def describe(self, bands: int) -> str:
        return "batch norm"


class LayerNorm(Layer):
    """Normalisation of each frame over its channels and bands."""

    drawn = False

    def __init__(self, channels: int, bands: int, affine: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm([channels, bands], elementwise_affine=affine)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        y = self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mask_frames(y, frames), frames

    def describe(self, bands: int) -> str:
        return "layer norm"


class InstanceNorm(Layer):
    """Normalisation of each channel over the bands and frames of its clip. Not local in time: needs the whole clip."""

    receptive_field = None
    drawn = False

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

    def describe(self, bands: int) -> str:
        return "instance norm"


class Activation(Layer):
    """Pointwise nonlinearity. Some are not zero at zero, so the padding is masked again."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.module = ACTIVATIONS[kind]()

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return mask_frames(self.module(x), frames), frames

    def describe(self, bands: int) -> str:
        return self.kind


@build_layer.register
def build_norm(config: NormConfig, before: LayerInput) -> Layer:
    if config.kind == "batch":
        return BatchNorm(before.channels, config.affine)
    if config.kind == "layer":
        return LayerNorm(before.channels, before.bands, config.affine)
    return InstanceNorm(before.channels, config.affine)


@build_layer.register
def build_activation(config: ActivationConfig, before: LayerInput) -> Layer:
    return Activation(config.kind)
