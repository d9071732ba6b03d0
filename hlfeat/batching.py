"""Clips, or their features, of different lengths to padded batches, by a rule that depends on the lengths alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def plan_batches(lengths: Sequence[int], max_samples: int) -> list[list[int]]:
    """Group clips of similar length, so that little is padded.

    A batch takes at most `max_samples` samples with its padding; a clip longer than that is a batch of its own. The
    longest come first: if memory does not suffice, that shows at once.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_samples:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def pad(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Right-pad with zeros.

    Shape: B times [T_i] -> [B, max T_i], lengths [B].
    """
    lengths = torch.tensor([len(w) for w in waveforms])
    if len(waveforms) == 1:  # nothing to pad, no reason to copy
        return waveforms[0][None], lengths
    return torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths


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
