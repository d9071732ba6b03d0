"""scripts/train.py --task classes: a classifier after the extractor, which is thrown away in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from train_data import Example, Parts
from train_state import Model, whole_clips

import hlfeat


class Classifier(Model):
    """Mean and standard deviation of the features over a clip's frames, then a small perceptron.

    Shape: x [B, T], lengths [B] -> [B, classes].
    """

    def __init__(self, extractor: hlfeat.Extractor, classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.extractor = extractor
        size = 2 * extractor.n_channels * extractor.n_bands
        self.head = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        features = self.extractor(x, lengths).float().flatten(1, 2)  # [B, C F, N], zero past a clip's end
        frames = self.extractor.num_frames(lengths)
        exists = hlfeat.frame_mask(frames, features.shape[-1])[:, None]  # [B, 1, N]
        mean = features.sum(-1, keepdim=True) / frames[:, None, None]
        variance = ((features - mean) * exists).square().sum(-1) / frames[:, None]
        return self.head(torch.cat([mean[..., 0], (variance + 1e-5).sqrt()], -1))  # type: ignore[no-any-return]


class Classes:
    """Tell the classes of the clips to train with apart. (A Task: see train_state.py.)"""

    def __init__(self, config: hlfeat.Config, parts: Parts) -> None:
        self.config = config
        self.classes = sorted({e.label for e in parts.train})
        self.chance = max(Counter(e.label for e in parts.valid).values()) / len(parts.valid)
        self.model = Classifier(hlfeat.build(config), len(self.classes))
        self.settings: dict[str, Any] = {"classes": self.classes}

    def loss(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        return nn.functional.cross_entropy(outputs.float(), self.labels(examples).to(outputs.device))

    def measure(self, examples: Sequence[Example], amp: bool) -> dict[str, float]:
        """The share of whole clips that get their class."""
        batches = whole_clips(self.model, examples, amp)
        right = sum(int((scores.argmax(-1) == self.labels(batch)).sum()) for batch, scores in batches)
        return {"accuracy": right / len(examples)}

    def labels(self, examples: Sequence[Example]) -> Tensor:
        return torch.tensor([self.classes.index(e.label) for e in examples])

    def line(self, result: dict[str, Any]) -> str:
        test = f", test accuracy {result['test_accuracy']:.1%}" if "test_accuracy" in result else ""
        return f"held-out accuracy {result['accuracy']:.1%} (chance {self.chance:.1%}){test}"
