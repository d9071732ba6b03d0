"""Clips of a FeatureStore as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class FeatureBatch(NamedTuple):
    """A batch of clips of different lengths.

    Attributes:
        features: float32 [B, N, channels, bands], or [B, N, dims] of pooled features; zero beyond a clip's end.
        lengths: int64 [B], the frames (or pooled vectors) of each clip; N is the largest.
        ids: of the B clips.

    >>> import numpy as np
    >>> from hlfeat import collate
    >>> features, lengths, ids = collate([("a", np.ones((3, 1, 80))), ("b", np.ones((2, 1, 80)))])
    >>> features.shape, lengths, ids
    (torch.Size([2, 3, 1, 80]), tensor([3, 2]), ['a', 'b'])
    """

    features: Tensor
    lengths: Tensor
    ids: list[str]


def collate(items: Sequence[tuple[str, np.ndarray]]) -> FeatureBatch:
    """Items of a FeatureStore as one batch: `DataLoader(store, batch_size=32, collate_fn=hlfeat.collate)`.

    Args:
        items: B times (id, features), at least one.

    Shape: features [N_i, channels, bands] -> [B, max N_i, channels, bands]; [N_i, dims] -> [B, max N_i, dims].

    Raises:
        ValueError: clips of different channels, bands or dims.

    Example:
        >>> batch = collate([("a.wav", np.ones((3, 2, 40))), ("b.wav", np.ones((5, 2, 40)))])
        >>> batch.features.shape, batch.lengths.tolist(), batch.ids
        (torch.Size([2, 5, 2, 40]), [3, 5], ['a.wav', 'b.wav'])
    """
    lengths = [len(features) for _, features in items]
    first_id, first = items[0]
    batch = torch.zeros(len(items), max(lengths), *first.shape[1:])
    for row, (id_, features) in zip(batch, items, strict=True):
        if features.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"expected features [*, {list(first.shape[1:])}] as of {first_id!r}, "
                f"got {id_!r} of {list(features.shape)}"
            )
        row[: len(features)] = torch.from_numpy(features)
    return FeatureBatch(batch, torch.tensor(lengths), [id_ for id_, _ in items])
