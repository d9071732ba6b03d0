"""Padded batches of clips of different lengths, by a rule that depends on the lengths alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def plan_batches(lengths: Sequence[int], max_samples: int) -> list[list[int]]:
    """Group clips of similar length into batches, so that little is padded.

    The longest clips come first: if memory does not suffice, that shows at once.

    Args:
        lengths: of the clips, in samples.
        max_samples: of a batch with its padding: its longest clip times its number of clips. A clip longer than that is
            a batch of its own.

    Returns:
        The positions in `lengths` of the clips of each batch; each clip is in one batch.

    >>> plan_batches([100, 900, 120], max_samples=500)
    [[1], [2, 0]]
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_samples:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def pad(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad waveforms of different lengths to a batch, with zeros on the right.

    A single waveform is not copied.

    Args:
        waveforms: one or more, of one type, on one device.

    Shape: B times [T_i] -> [B, max T_i], lengths int64 [B], on the CPU.

    >>> import torch
    >>> x, lengths = pad([torch.ones(3), torch.ones(2)])
    >>> x
    tensor([[1., 1., 1.],
            [1., 1., 0.]])
    >>> lengths
    tensor([3, 2])
    """
    lengths = torch.tensor([len(w) for w in waveforms])
    if len(waveforms) == 1:  # nothing to pad, no reason to copy
        return waveforms[0][None], lengths
    if all(len(w) == len(waveforms[0]) for w in waveforms):  # takes half the time
        return torch.stack(list(waveforms)), lengths
    return torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths
