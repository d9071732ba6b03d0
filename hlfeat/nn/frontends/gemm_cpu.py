"""Energies of a Gabor filterbank on a CPU, with a hand-written gradient of the filters.

The same products as in hlfeat/nn/frontends/gemm.py, and the same sums to the bit, with less around them:

- Each piece of the work (hlfeat/nn/frontends/gemm_pieces.py) is computed by one thread, in its core's cache.
- Groups whose frames have the same centres share the folding.
- Folding needs each frame reversed. Frames overlap, so the signal is reversed instead, in runs of a frame's advance: a
  frame reversed is the run at its end, then the run at the end of the frame before, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hlfeat.nn.frontends.gemm_pieces import Clips, Fold, Piece, cut, folds_of, padded_clips
from hlfeat.nn.frontends.gemm_plan import Frames, GroupFilters, Part
from hlfeat.nn.frontends.scratch import Scratch, Scratches
from hlfeat.nn.threads import parallel_map


def energies(x: Tensor, lengths: Tensor | None, filters: Sequence[GroupFilters], hop: int) -> Tensor:
    """Energies of all groups, without a gradient.

    Shape: x [B, T], whatever it has past a clip's end; lengths [B] or None -> [B, F, N], N = (T - 1) // hop + 1, zero
        past a clip's end.
    """
    folds = folds_of(filters)
    clips = padded_clips(x, lengths, folds)
    out = empty_energies(clips, filters, hop)
    pieces = [piece for fold in folds for piece in cut(fold, *x.shape)]
    scratches = Scratches(clips.padded)

    def work(piece: Piece) -> None:
        with scratches.one() as scratch:
            piece_energies(clips, piece, out, scratch, None)

    parallel_map(work, pieces)
    return out


def empty_energies(clips: Clips, filters: Sequence[GroupFilters], hop: int) -> Tensor:
    """Shape: -> [B, F, N]."""
    return clips.padded.new_empty(
        clips.padded.shape[0], max(f.frames.group.stop for f in filters), (clips.samples - 1) // hop + 1
    )


class PartMemory:
    """Memory for the outputs of some filters, cut as the operations take it: a view costs as much as 1,000 additions.

    Shape:
        - even, odd: [rows, folded], inner parts of the widest group's folded frames
        - u, v: [rows, columns]; `paired`: their columns of outputs with a mirror image; `middle`: of the one without
        - z: [2, rows, 2 paired n], the outputs and their mirror images
        - energy: [2, rows, paired n]; middle_energy: [rows, n]; `block_energies`: the same for each kind, [blocks, ...]
    """

    def __init__(self, even: Tensor, odd: Tensor, frames: Frames, part: Part, scratch: Scratch) -> None:
        rows, width, blocks = (
            even.shape[0],
            frames.outputs // 2 * part.n,
            even.shape[0] * frames.outputs // frames.block,
        )
        skipped = even.shape[1] - frames.folded
        self.even, self.odd = (x.narrow(1, skipped, frames.folded) if skipped else x for x in (even, odd))
        self.u, self.v = (scratch.take(name, rows, part.even.shape[1]) for name in "uv")
        self.paired = self.u.narrow(1, 0, 2 * width), self.v.narrow(1, 0, 2 * width)
        self.z = scratch.take("z", 2, rows, 2 * width)
        self.signs, self.halves = self.z.unbind(0), halves_of(self.z)
        self.energy = scratch.take("energy", 2, rows, width)
        self.block_energies = list(self.energy.view(2, blocks, -1).unbind(0))
        if frames.outputs % 2:
            self.middle = self.u.narrow(1, 2 * width, part.n), self.v.narrow(1, 2 * width, part.n)
            self.middle_energy = scratch.take("middle energy", rows, part.n)
            self.block_energies.append(self.middle_energy.view(blocks, -1))


def halves_of(z: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts of outputs: [..., 2 n] -> 2 x [..., n]."""
    width = z.shape[-1] // 2
    return z.narrow(-1, 0, width), z.narrow(-1, width, width)


class ChunkMemory:
    """Memory for the folded frames of a chunk of `count` frames of each clip, and for what is made of them.

    Shape: even, odd [clips, count, folded]; `runs`: their columns, a frame's advance each; parts as in the groups.
    """

    def __init__(self, fold: Fold, clips: int, count: int, scratch: Scratch) -> None:
        folded, advance = fold.frames.folded, fold.frames.advance
        self.count = count
        even, odd = (scratch.take(name, clips, count, folded) for name in ("even", "odd"))
        self.runs = list(zip(torch.split(even, advance, 2), torch.split(odd, advance, 2), strict=True))
        even, odd = even.flatten(0, 1), odd.flatten(0, 1)
        self.parts = [PartMemory(even, odd, f.frames, part, scratch) for f in fold.groups for part in f.parts]


@dataclass(frozen=True)
class Chunk:
    """Some blocks of a piece, counted from its first; the folded frames, and which outputs lie inside their clip.

    Shape: inside as Clips.inside, for the chunk's last blocks.
    """

    blocks: slice
    memory: ChunkMemory
    inside: list[Tensor] | None
    only: bool

    def rows_of(self, sums: Tensor) -> Tensor:
        """Of a piece's [clips blocks, columns] those of this chunk: a piece of several clips has but one."""
        if self.only:
            return sums
        return sums.narrow(0, self.blocks.start, self.blocks.stop - self.blocks.start)


def chunks_of(clips: Clips, piece: Piece, scratch: Scratch) -> Iterator[Chunk]:
    """Chunks of a piece; each has its memory until the next."""
    fold, inside = piece.fold, clips.inside(piece)
    first_masked = piece.blocks if inside is None else piece.blocks - inside[0].shape[-4]
    for blocks in piece.cuts():
        count = (blocks.stop - blocks.start) * fold.frames_of_block
        memory = scratch.once((id(fold), piece.clips, count), partial(ChunkMemory, fold, piece.clips, count, scratch))
        fold_frames(clips, piece, blocks.start * fold.frames_of_block, memory)
        masks = None
        if inside is not None and blocks.stop > first_masked:
            start = max(0, blocks.start - first_masked)
            masks = [m.narrow(-4, start, blocks.stop - first_masked - start) for m in inside]
        yield Chunk(blocks, memory, masks, piece.chunks == 1)


def fold_frames(clips: Clips, piece: Piece, start: int, memory: ChunkMemory) -> None:
    """A chunk's frames, from `start` on, plus and minus themselves reversed: e and o of gemm_plan.py."""
    fold, frames, advance = piece.fold, piece.fold.frames, piece.fold.frames.advance
    first, rows = start * advance, memory.count + fold.runs - 1
    reversed_runs = clips.runs(piece, first + frames.width - fold.runs * advance, rows, advance).flip(-1)
    for i, (even, odd) in enumerate(memory.runs):
        head = clips.runs(piece, first + i * advance, memory.count, even.shape[-1])
        later = (fold.runs - 1 - i) * advance
        tail = reversed_runs.as_strided(head.shape, (rows * advance, advance, 1), later)
        torch.add(head, tail, out=even)
        torch.sub(head, tail, out=odd)


def make_outputs(part: Part, memory: PartMemory, kept: list[Tensor] | None) -> None:
    """Outputs of a chunk's filters, in memory.z and memory.middle; copies of them to `kept`."""
    torch.mm(memory.even, part.even, out=memory.u)
    torch.mm(memory.odd, part.odd, out=memory.v)
    torch.add(*memory.paired, out=memory.signs[0])
    torch.sub(*memory.paired, out=memory.signs[1])
    if kept is not None:
        kept.append(memory.z.clone())
        if len(part.pools) == 3:
            kept.append(torch.cat(memory.middle, 1))


def make_energies(
    z: tuple[Tensor, Tensor], middle: tuple[Tensor, Tensor] | None, memory: PartMemory, chunk: Chunk, piece: Piece
) -> None:
    """Squared magnitudes of real and imaginary parts, zero outside a clip, in memory.block_energies."""
    real, imag = z
    torch.mul(real, real, out=memory.energy)
    memory.energy.addcmul_(imag, imag)
    if middle is not None:
        real, imag = middle
        torch.mul(real, real, out=memory.middle_energy)
        memory.middle_energy.addcmul_(imag, imag)
    mask_last_blocks(memory.energy, None if middle is None else memory.middle_energy, chunk, piece)


def mask_last_blocks(paired: Tensor, middle: Tensor | None, chunk: Chunk, piece: Piece) -> None:
    """Set what lies outside a clip to zero: paired [2, rows, paired n], middle [rows, n] if there is one."""
    if chunk.inside is None:
        return
    for values, inside in zip((paired, middle), chunk.inside, strict=False):
        if values is not None:
            count, a_block, outputs = inside.shape[-4:-1]
            blocks = values.view(*values.shape[:-2], piece.clips, -1, a_block, outputs, values.shape[-1] // outputs)
            blocks.narrow(-4, blocks.shape[-4] - count, count).mul_(inside)


def piece_energies(clips: Clips, piece: Piece, out: Tensor, scratch: Scratch, kept: list[Tensor] | None) -> None:
    """Write a piece's feature frames into `out` [B, F, N]; add what the gradient needs to `kept`."""
    parts = [part for f in piece.fold.groups for part in f.parts]
    sums = [out.new_empty(piece.clips * piece.blocks, part.pools[0].shape[1]) for part in parts]
    for chunk in chunks_of(clips, piece, scratch):
        for part, memory, of_part in zip(parts, chunk.memory.parts, sums, strict=True):
            make_outputs(part, memory, kept)
            make_energies(memory.halves, memory.middle if len(part.pools) == 3 else None, memory, chunk, piece)
            total = chunk.rows_of(of_part)
            torch.mm(memory.block_energies[0], part.pools[0], out=total)
            for energy, pool in zip(memory.block_energies[1:], part.pools[1:], strict=True):
                total.addmm_(energy, pool)
    for part, of_part, target in zip(parts, sums, bands_of(out, piece), strict=True):
        frames = overlap_add(of_part, piece, part.n)
        owned = piece.owned()
        target.copy_(frames.narrow(1, owned.start, owned.stop - owned.start).transpose(1, 2))
        if clips.lengths is not None:
            zero_absent(target, clips.lengths, piece)


def bands_of(energies: Tensor, piece: Piece) -> list[Tensor]:
    """A piece's feature frames, of each part of each group: views [clips, n, frames]."""
    frames = energies[piece.first : piece.last, :, piece.start : piece.stop]
    views = []
    for f in piece.fold.groups:
        band = f.frames.group.start
        for part in f.parts:
            views.append(frames.narrow(1, band, part.n))
            band += part.n
    return views


def zero_absent(target: Tensor, lengths: Tensor, piece: Piece) -> None:
    """Set a piece's feature frames past each clip's end to zero: target [clips, n, frames]."""
    for band, length in zip(target, lengths[piece.first : piece.last].tolist(), strict=True):
        frames = (length - 1) // piece.fold.hop + 1 - piece.start
        if frames < band.shape[1]:
            band[:, max(0, frames) :].zero_()


def overlap_add(sums: Tensor, piece: Piece, n: int) -> Tensor:
    """Each block's feature frames, added where blocks overlap, in the order of gemm.overlap_add.

    Shape: [clips blocks, reach n or more] -> [clips, feature frames, n].
    """
    fold, columns = piece.fold, sums.shape[1]
    step, rows = fold.frames.hops * n, piece.blocks + fold.overlaps - 1
    total = sums.new_zeros(piece.clips, rows, step)
    for i in range(fold.overlaps):
        size = piece.clips, piece.blocks, min(step, fold.frames.reach * n - i * step)
        part = sums.as_strided(size, (piece.blocks * columns, columns, 1), i * step)
        total.as_strided(size, (rows * step, step, 1), i * step).add_(part)
    return total.view(piece.clips, -1, n)
