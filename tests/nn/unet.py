"""A small U-Net, whose convolutions tests make harmonic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class UNet(nn.Module):
    """Two levels down and up, with strides in one place and pooling in another."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.middle = nn.Conv2d(channels, channels, (5, 3), padding="same")
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.joined = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.last = nn.Conv2d(2 * channels, 1, 3, padding=1, padding_mode="reflect")
        self.mix = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.first(x))
        b = F.relu(self.middle(self.pool(a)))
        c = F.relu(self.deep(self.down(b)))
        d = F.relu(self.joined(torch.cat([self.up(c), b], 1)))
        return self.mix(self.last(torch.cat([self.up(d), a], 1)))
