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

import torch
from torch import Tensor

from hlfeat.nn.frontends.gemm_pieces import Clips, Fold, Piece, cut, folds_of, padded_clips
from hlfeat.nn.frontends.gemm_plan import Frames, GroupFilters, Part
from hlfeat.nn.frontends.scratch import Scratch
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
    parallel_map(lambda piece: piece_energies(clips, piece, out, None), pieces)
    return out


def empty_energies(clips: Clips, filters: Sequence[GroupFilters], hop: int) -> Tensor:
    """Shape: -> [B, F, N]."""
    return clips.padded.new_empty(
        clips.padded.shape[0], max(f.frames.group.stop for f in filters), (clips.samples - 1) // hop + 1
    )


@dataclass(frozen=True)
class Chunk:
    """Some blocks of a piece, counted from its first; the folded frames, and which outputs lie inside their clip.

    Shape: even, odd [rows, folded]; inside as Clips.inside, for the chunk's last blocks.
    """

    blocks: slice
    even: Tensor
    odd: Tensor
    inside: list[Tensor] | None


def chunks_of(clips: Clips, piece: Piece, scratch: Scratch) -> Iterator[Chunk]:
    """Chunks of a piece; each has its memory until the next."""
    fold, a_block = piece.fold, piece.fold.frames_of_block
    frames, runs = clips.frames(piece)
    inside = clips.inside(piece)
    first_masked = piece.blocks if inside is None else piece.blocks - inside[0].shape[1]
    for blocks in piece.cuts():
        start, stop = blocks.start * a_block, blocks.stop * a_block
        even, odd = fold_frames(frames[:, start:stop], runs[:, start : stop + fold.runs - 1], fold, scratch)
        masks = None
        if inside is not None and blocks.stop > first_masked:
            masks = [m[:, max(0, blocks.start - first_masked) : blocks.stop - first_masked] for m in inside]
        yield Chunk(blocks, even, odd, masks)


def fold_frames(frames: Tensor, runs: Tensor, fold: Fold, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Frames plus and minus themselves reversed: e and o of hlfeat/nn/frontends/gemm_plan.py.

    Shape: frames [b, m, width], runs [b, m + fold.runs - 1, advance] -> 2 x [b m, folded].
    """
    clips, count, _ = frames.shape
    folded, advance = fold.frames.folded, fold.frames.advance
    even, odd = (scratch.take(name, clips, count, folded) for name in ("even", "odd"))
    reversed_runs = runs.flip(-1)
    for i in range(fold.runs):
        columns = slice(i * advance, min((i + 1) * advance, folded))
        head, row = frames[..., columns], fold.runs - 1 - i
        tail = reversed_runs[:, row : row + count, : columns.stop - columns.start]
        torch.add(head, tail, out=even[..., columns])
        torch.sub(head, tail, out=odd[..., columns])
    return even.flatten(0, 1), odd.flatten(0, 1)


def outputs(
    chunk: Chunk, frames: Frames, part: Part, scratch: Scratch, kept: list[Tensor] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Real and imaginary parts of a chunk's outputs of each kind, in the order of `part.pools`: 2 x [rows, outputs n].

    A kind has its memory until the next, unless all are kept.
    """
    rows, paired = chunk.even.shape[0], frames.outputs // 2 * part.n
    u = torch.mm(chunk.even[:, -frames.folded :], part.even, out=scratch.take("u", rows, part.even.shape[1]))
    v = torch.mm(chunk.odd[:, -frames.folded :], part.odd, out=scratch.take("v", rows, part.odd.shape[1]))
    for combine in (torch.add, torch.sub):
        z = scratch.take("z", rows, 2 * paired) if kept is None else u.new_empty(rows, 2 * paired)
        combine(u[:, : 2 * paired], v[:, : 2 * paired], out=z)
        if kept is not None:
            kept.append(z)
        yield z[:, :paired], z[:, paired:]
    if frames.outputs % 2:
        real, imag = (x[:, 2 * paired : 2 * paired + part.n] for x in (u, v))
        if kept is not None:
            kept.append(torch.cat([real, imag], 1))
        yield real, imag


def energy_of(real: Tensor, imag: Tensor, inside: Tensor | None, piece: Piece, n: int, scratch: Scratch) -> Tensor:
    """Squared magnitudes, zero outside a clip: 2 x [rows, outputs n] -> [rows, outputs n]."""
    energy = torch.mul(real, real, out=scratch.take("energy", *real.shape))
    energy.addcmul_(imag, imag)
    mask_last_blocks(energy, inside, piece, n)
    return energy


def mask_last_blocks(values: Tensor, inside: Tensor | None, piece: Piece, n: int) -> None:
    """Set what lies outside a clip to zero, in a chunk's [rows, outputs n]."""
    if inside is not None:
        blocks = values.view(piece.clips, -1, *inside.shape[2:4], n)
        blocks[:, -inside.shape[1] :].mul_(inside)


def piece_energies(clips: Clips, piece: Piece, out: Tensor, kept: list[Tensor] | None) -> None:
    """Write a piece's feature frames into `out` [B, F, N]; add what the gradient needs to `kept`."""
    scratch = Scratch(clips.padded)
    parts = [(f, part) for f in piece.fold.groups for part in f.parts]
    sums = [out.new_empty(piece.clips, piece.blocks, part.pools[0].shape[1]) for _, part in parts]
    for chunk in chunks_of(clips, piece, scratch):
        for (f, part), blocks in zip(parts, sums, strict=True):
            total = blocks[:, chunk.blocks].flatten(0, 1)
            for kind, (real, imag) in enumerate(outputs(chunk, f.frames, part, scratch, kept)):
                energy = energy_of(real, imag, chunk.inside and chunk.inside[kind], piece, part.n, scratch)
                energy = energy.view(total.shape[0], -1)
                if kind == 0:
                    torch.mm(energy, part.pools[kind], out=total)
                else:
                    total.addmm_(energy, part.pools[kind])
    for (_, part), blocks, target in zip(parts, sums, bands_of(out, piece), strict=True):
        target.copy_(overlap_add(blocks, piece.fold, part.n)[:, piece.owned()].transpose(1, 2))
        if clips.lengths is not None:
            zero_absent(target, clips.lengths, piece)


def bands_of(energies: Tensor, piece: Piece) -> list[Tensor]:
    """A piece's feature frames, of each part of each group: views [clips, n, frames]."""
    frames = energies[piece.first : piece.last, :, piece.start : piece.stop]
    views = []
    for f in piece.fold.groups:
        band = f.frames.group.start
        for part in f.parts:
            views.append(frames[:, band : band + part.n])
            band += part.n
    return views


def zero_absent(target: Tensor, lengths: Tensor, piece: Piece) -> None:
    """Set a piece's feature frames past each clip's end to zero: target [clips, n, frames]."""
    for band, length in zip(target, lengths[piece.first : piece.last].tolist(), strict=True):
        frames = (length - 1) // piece.fold.hop + 1 - piece.start
        if frames < band.shape[1]:
            band[:, max(0, frames) :].zero_()


def overlap_add(blocks: Tensor, fold: Fold, n: int) -> Tensor:
    """Each block's feature frames, added where blocks overlap, in the order of gemm.overlap_add.

    Shape: [b, blocks, reach n or more] -> [b, feature frames, n].
    """
    step, count = fold.frames.hops * n, blocks.shape[1]
    total = blocks.new_zeros(blocks.shape[0], count + fold.overlaps - 1, step)
    for i in range(fold.overlaps):
        part = blocks[..., i * step : min((i + 1) * step, fold.frames.reach * n)]
        total[:, i : i + count, : part.shape[-1]] += part
    return total.view(blocks.shape[0], -1, n)
