"""Clips of a FeatureStore as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class FeatureBatch(NamedTuple):
    """Features [B, N, ...] in float32, zero beyond a clip's end; lengths [B] in frames or vectors; the B ids."""

    features: Tensor
    lengths: Tensor
    ids: list[str]


def collate(items: Sequence[tuple[str, np.ndarray]]) -> FeatureBatch:
    """Items of a FeatureStore as one batch: `DataLoader(store, batch_size=32, collate_fn=hlfeat.collate)`.

    Shape: B times (id, [N_i, channels, bands]) -> [B, max N_i, channels, bands], lengths [B], ids; pooled features
    (id, [N_i, dims]) -> [B, max N_i, dims].
    """
    lengths = [len(y) for _, y in items]
    features = torch.zeros(len(items), max(lengths), *items[0][1].shape[1:])
    for row, (id_, y) in zip(features, items, strict=True):
        if y.shape[1:] != row.shape[1:]:
            raise ValueError(f"expected features [*, {list(row.shape[1:])}] as of {items[0][0]!r}, got {id_!r} of "
                             f"{list(y.shape)}")  # fmt: skip
        row[: len(y)] = torch.from_numpy(y)
    return FeatureBatch(features, torch.tensor(lengths), [id_ for id_, _ in items])
