"""Energies of a Gabor filterbank at the frame rate: matrix products in chunks of bounded size.

The matrices are those of hlfeat/nn/frontends/gemm_plan.py. A CPU takes these operations where the signal has a gradient
or somebody has to see each of them; otherwise those of hlfeat/nn/frontends/gemm_cpu.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.nn._private_torch import differentiated_elsewhere
from hlfeat.nn.frontends.gemm_plan import LEAST_BLOCKS, Frames, GroupFilters, blocks_of, kinds
from hlfeat.nn.frontends.scratch import Scratch

# Values in the intermediate results of one chunk: on the CPU they stay in cache, elsewhere the limit bounds memory.
CPU_CHUNK, DEVICE_CHUNK = 1 << 22, 1 << 26


def group_energies(
    padded: Tensor, origin: int, samples: int, lengths: Tensor | None, filters: GroupFilters, scratch: Scratch | None
) -> Tensor:
    """Energies of one group at the frame rate: |x * h|^2, smoothed.

    Everything outside a clip is zero, for the smoothing too: the convolution's tails, which reach past the last sample
    into the padding, must not be seen by the frames that lie before it.

    Shape: padded [B, ...], whose sample `origin` is the first of `samples`, with zeros around them and past each clip's
        end; lengths [B] or None -> [B, N, n], N the frames of `samples` and more.
    """
    frames = filters.frames
    group = frames.group
    a_block = frames.block // frames.outputs  # frames of a block
    blocks = blocks_of(frames, samples)
    outputs = blocks * frames.block
    first = origin - group.kernel // 2
    x = padded[:, first : first + (outputs - 1) * group.stride + group.kernel]
    x = x.unfold(1, frames.width, frames.advance)  # [B, M, width]
    clips = x.shape[0]
    masks = outputs_inside(frames, samples, lengths, blocks, x.device)
    block_values = a_block * (2 * frames.width + 6 * frames.outputs * filters.parts[0].n)  # intermediate, of one block
    chunk_blocks = max(2 * LEAST_BLOCKS, (CPU_CHUNK if x.device.type == "cpu" else DEVICE_CHUNK) // block_values)
    turns = -(-blocks // chunk_blocks)
    items = max(1, chunk_blocks // blocks)
    sums: list[list[Tensor]] = [[] for _ in filters.parts]
    for i in range(0, clips, items):
        for turn in range(turns):
            j, end = (
                turn * blocks // turns,
                (turn + 1) * blocks // turns,
            )  # of about equal size
            some = x[i : i + items, j * a_block : end * a_block]
            if lengths is not None:
                inside: list[Tensor] | None = [m[i : i + items, j:end] for m in masks]
            else:
                inside = masks if end == blocks else None
            for chunks, result in zip(sums, chunk_energies(some, filters, inside, scratch), strict=True):
                chunks.append(result)
    smooth = []
    for part, chunks in zip(filters.parts, sums, strict=True):
        total = torch.cat(chunks).view(clips, blocks, frames.reach, part.n)
        smooth.append(overlap_add(total, frames.hops)[:, -frames.earliest :])
    return smooth[0] if len(smooth) == 1 else torch.cat(smooth, -1)


def chunk_energies(
    x: Tensor, filters: GroupFilters, inside: list[Tensor] | None, scratch: Scratch | None
) -> list[Tensor]:
    """Smoothed energies that a chunk's blocks add to the feature frames in their reach.

    Shape: x [b, frames, width]; inside, of each kind of output, [b or 1, blocks (the last ones), frames of a block,
        outputs, 1] -> of each part [b blocks, reach n].
    """

    def memory(name: str, *shape: int) -> Tensor | None:
        return None if scratch is None else scratch.take(name, *shape)

    frames = filters.frames
    head, tail = x[..., : frames.folded], x[..., frames.width - frames.folded :].flip(-1)
    rows, a_block, half = x.shape[0] * x.shape[1], frames.block // frames.outputs, frames.outputs // 2
    even = torch.add(head, tail, out=memory("even", *head.shape)).flatten(0, 1)  # [rows, folded]
    odd = torch.sub(head, tail, out=memory("odd", *head.shape)).flatten(0, 1)
    results = []
    for part in filters.parts:
        w = half * part.n
        u = torch.mm(even, part.even, out=memory("u", rows, part.even.shape[1]))
        v = torch.mm(odd, part.odd, out=memory("v", rows, part.odd.shape[1]))
        result: Tensor | None = None
        for kind, pool in enumerate(part.pools):
            if kind == 2:
                real, imag = u[:, 2 * w : 2 * w + part.n], v[:, 2 * w : 2 * w + part.n]
            else:
                z = (torch.add, torch.sub)[kind](u[:, : 2 * w], v[:, : 2 * w], out=memory("z", rows, 2 * w))
                real, imag = z[:, :w], z[:, w:]
            energy = torch.mul(real, real, out=memory("energy", *real.shape))
            energy = energy.addcmul(imag, imag) if scratch is None else energy.addcmul_(imag, imag)
            if inside is not None:
                of_blocks = energy.view(x.shape[0], -1, a_block, real.shape[1] // part.n, part.n)
                of_blocks[:, -inside[kind].shape[1] :].mul_(inside[kind])
            energy = energy.view(rows // a_block, -1)
            result = torch.mm(energy, pool) if result is None else result.addmm(energy, pool)
        assert result is not None
        results.append(result[:, : frames.reach * part.n])
    return results


def outputs_inside(
    frames: Frames, samples: int, lengths: Tensor | None, blocks: int, device: torch.device
) -> list[Tensor]:
    """Which outputs lie inside their clip, of each kind: 1.0 or 0.0; without lengths for the last blocks alone.

    Shape: -> [B or 1, blocks or fewer, frames of a block, outputs, 1].
    """
    first = 0 if lengths is not None else (samples - 1) // frames.group.stride // frames.block
    start = torch.arange(first * frames.block, blocks * frames.block, frames.outputs, device=device)
    start = start.view(1, blocks - first, -1, 1)
    end: Tensor | int = samples if lengths is None else lengths[:, None, None, None]
    outputs = kinds(frames, device)  # made there: copying them would wait for a GPU
    return [((start + r) * frames.group.stride < end).float().unsqueeze(-1) for r in outputs]


def overlap_add(blocks: Tensor, hops: int) -> Tensor:
    """Each block's feature frames, added where blocks overlap; a block advances by `hops`.

    Shape: [B, blocks, reach, n] -> [B, feature frames, n].
    """
    turns = -(-blocks.shape[2] // hops)
    total: Tensor | float = 0.0
    for i in range(turns):
        part = blocks[:, :, i * hops : (i + 1) * hops]
        total = total + F.pad(part, (0, 0, 0, hops - part.shape[2], i, turns - 1 - i))
    assert isinstance(total, Tensor)
    return total.flatten(1, 2)


def energies(x: Tensor, lengths: Tensor | None, filters: Sequence[GroupFilters], hop: int) -> Tensor:
    """Energies of all groups, in the order of the filters.

    Shape: x [B, T], zero past each clip's end; lengths [B] or None -> [B, F, N], N = (T - 1) // hop + 1.
    """
    samples = x.shape[1]
    frames = [f.frames for f in filters]
    before = max(f.group.kernel // 2 for f in frames)
    after = max((blocks_of(f, samples) * f.block - 1) * f.group.stride + f.group.kernel // 2 + 1 for f in frames)
    after = max(0, after - samples)
    zeros = x.new_zeros(x.shape[0], before + after)
    padded = torch.cat([zeros[:, :before], x, zeros[:, before:]], 1)  # faster than F.pad
    # Gradients keep intermediate results, and torch.func writes to none.
    scratch = None if torch.is_grad_enabled() or differentiated_elsewhere(x) else Scratch(x)
    n = (samples - 1) // hop + 1
    by_group = [group_energies(padded, before, samples, lengths, f, scratch)[:, :n] for f in filters]
    return torch.cat([e.transpose(1, 2) for e in by_group], 1)
