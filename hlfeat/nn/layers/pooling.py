"""Pooling over neighbouring bands and frames."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.config.layers import PoolConfig
from hlfeat.errors import ConfigError
from hlfeat.nn.axes import Axis
from hlfeat.nn.layers.base import Layer, LayerInput
from hlfeat.nn.layers.registry import build_layer
from hlfeat.nn.masking import frame_mask, mask_frames


class Pool(Layer):
    """Mean or maximum over non-overlapping windows of bands and frames.

    A last window in time that the clip fills partly is pooled over the frames that exist. Bands that fill no window are
    left out, as in torch.
    """

    def __init__(self, kind: str, bands: int, frames: int) -> None:
        super().__init__()
        self.kind, self.bands, self.stride = kind, bands, frames
        self.shift = (frames - 1) / 2
        if frames > 1:
            self.shortcut_stride = None

    def set_axis(self, axis: Axis | None) -> Axis | None:
        """A pooled row stands for the mean frequency of its window."""
        return axis if axis is None or self.bands == 1 else axis.pooled(self.bands)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        size, n = (self.bands, self.stride), x.shape[-1]
        exists = x.new_ones(1, 1, 1, n)
        if frames is not None:
            exists = frame_mask(frames, n)[:, None, None].to(x.dtype)  # [B, 1, 1, N]
        pad = -n % self.stride
        if self.kind == "max":
            y = F.max_pool2d(F.pad(x.masked_fill(exists == 0, -torch.inf), (0, pad), value=-torch.inf), size)
        else:
            filled = F.avg_pool2d(F.pad(exists, (0, pad)), (1, self.stride))  # the part of each window that exists
            y = F.avg_pool2d(F.pad(x, (0, pad)), size) / filled.clamp(min=0.5 / self.stride)
        frames = None if frames is None else self.num_frames(frames)
        return mask_frames(y, frames), frames

    def output_size(self, channels: int, bands: int) -> tuple[int, int]:
        return channels, bands // self.bands

    def output_freqs(self, freqs: np.ndarray | None) -> np.ndarray | None:
        if freqs is None:
            return None
        whole = len(freqs) // self.bands * self.bands
        return freqs[:whole].reshape(-1, self.bands).mean(1)  # type: ignore[no-any-return]

    def describe(self, bands: int) -> str:
        return f"{self.kind} pool {self.bands} x {self.stride}"


@build_layer.register
def build_pool(config: PoolConfig, before: LayerInput) -> Layer:
    if config.bands > before.bands:
        raise ConfigError(f"bands: expected at most the {before.bands} there are, got {config.bands}")
    return Pool(config.kind, config.bands, config.frames)
