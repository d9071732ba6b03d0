"""Gradient of a filterbank's energies with respect to its matrices, on a CPU.

Of an energy E = re^2 + im^2 in a product E P with a smoothing matrix, G the gradient of that product:

    dP = E^T G,   dre = 2 re (G P^T),   dim = 2 im (G P^T).

The outputs are u + v and u - v of u = e A and v = o B, so the gradients of u and v are the sum and the difference of
theirs, and dA = e^T du, dB = o^T dv. Outputs are kept, folded frames (twice as large) are made again: each piece is
added up in cache, where autograd would write every intermediate result to memory. The signal gets no gradient here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hlfeat.nn._private_torch import differentiated_elsewhere, operations_watched
from hlfeat.nn.frontends import gemm, gemm_cpu
from hlfeat.nn.frontends.gemm_pieces import Clips, Piece, cut, folds_of, padded_clips
from hlfeat.nn.frontends.gemm_plan import GroupFilters, Part
from hlfeat.nn.frontends.scratch import Scratch, Scratches
from hlfeat.nn.masking import mask_frames
from hlfeat.nn.threads import parallel_map

LANES = 4  # sums that the pieces of a fold are added to, each by one thread: fixed, so that sums follow no core count


def matrices_of(filters: Sequence[GroupFilters]) -> list[Tensor]:
    """All matrices, in the order in which gradients are returned."""
    return [m for f in filters for part in f.parts for m in (part.even, part.odd, *part.pools)]


def plain_cpu(x: Tensor, filters: Sequence[GroupFilters]) -> bool:
    """Whether `cpu_energies` serves: ordinary tensors on a CPU, no gradient of the signal, and nobody who traces."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.compiler.is_compiling()
        and not operations_watched()
        and not differentiated_elsewhere(x, *matrices_of(filters))
    )


def cpu_energies(x: Tensor, lengths: Tensor | None, filters: Sequence[GroupFilters], hop: int) -> Tensor:
    """Energies of all groups, with a gradient of the matrices where that is needed.

    Shape: x [B, T], whatever it has past a clip's end; lengths [B] or None -> [B, F, N], N = (T - 1) // hop + 1, zero
        past a clip's end.
    """
    matrices = matrices_of(filters)
    if torch.is_grad_enabled() and any(m.requires_grad for m in matrices):
        energies: Tensor = CpuEnergies.apply(x, lengths, filters, hop, *matrices)  # type: ignore[no-untyped-call]
        return energies
    return gemm_cpu.energies(x, lengths, filters, hop)


class CpuEnergies(torch.autograd.Function):
    """`gemm_cpu.energies`, which keeps the outputs of the filters for its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lengths: Tensor | None, filters: Sequence[GroupFilters], hop: int, *matrices: Tensor
    ) -> Tensor:
        folds = folds_of(filters)
        clips = padded_clips(x, lengths, folds)
        out = gemm_cpu.empty_energies(clips, filters, hop)
        pieces = [piece for fold in folds for piece in cut(fold, *x.shape)]

        scratches = Scratches(clips.padded)

        def work(piece: Piece) -> list[Tensor]:
            kept: list[Tensor] = []
            with scratches.one() as scratch:
                gemm_cpu.piece_energies(clips, piece, out, scratch, kept)
            return kept

        ctx.clips, ctx.filters, ctx.hop = clips, filters, hop
        ctx.kept = list(zip(pieces, parallel_map(work, pieces), strict=True))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # of a gradient that is differentiated again, autograd has to see every step
            return (None, None, None, None, *differentiable_gradients(ctx.clips, ctx.filters, ctx.hop, gradient))
        lanes = lanes_of(ctx.kept)
        sums = parallel_map(lambda lane: lane_gradients(ctx.clips, lane, gradient), lanes)
        total: dict[int, Tensor] = {}
        for matrices in sums:
            for key, matrix in matrices.items():
                total[key] = total[key].add_(matrix) if key in total else matrix
        return (None, None, None, None, *(total[id(m)] for m in matrices_of(ctx.filters)))


Kept = tuple[Piece, list[Tensor]]


def lanes_of(kept: Sequence[Kept]) -> list[list[Kept]]:
    """Pieces whose gradients are added to one sum: up to LANES runs of pieces of each fold."""
    of_fold: dict[int, list[Kept]] = {}
    for piece, outputs in kept:
        of_fold.setdefault(id(piece.fold), []).append((piece, outputs))
    lanes = []
    for pieces in of_fold.values():
        count = min(LANES, len(pieces))
        lanes += [pieces[i * len(pieces) // count : (i + 1) * len(pieces) // count] for i in range(count)]
    return lanes


def lane_gradients(clips: Clips, lane: Sequence[Kept], gradient: Tensor) -> dict[int, Tensor]:
    """Gradients of a fold's matrices, from some of its pieces, by the id of each matrix."""
    fold, scratch = lane[0][0].fold, Scratch(clips.padded)
    parts = [part for f in fold.groups for part in f.parts]
    sums = {id(m): torch.zeros_like(m) for m in matrices_of(fold.groups)}
    for piece, kept in lane:
        outputs = iter(kept)
        of_blocks = [
            blocks_gradient(band, piece, part, clips.lengths)
            for part, band in zip(parts, gemm_cpu.bands_of(gradient, piece), strict=True)
        ]
        for chunk in gemm_cpu.chunks_of(clips, piece, scratch):
            for part, memory, blocks in zip(parts, chunk.memory.parts, of_blocks, strict=True):
                total = chunk.rows_of(blocks)
                du, dv = part_gradients(chunk, memory, total, piece, part, outputs, sums)
                sums[id(part.even)].addmm_(memory.even.t(), du)
                sums[id(part.odd)].addmm_(memory.odd.t(), dv)
    for part in parts:
        sums[id(part.even)].mul_(2)
        sums[id(part.odd)].mul_(2)
    return sums


def part_gradients(
    chunk: gemm_cpu.Chunk,
    memory: gemm_cpu.PartMemory,
    gradient: Tensor,
    piece: Piece,
    part: Part,
    kept: Iterator[Tensor],
    sums: dict[int, Tensor],
) -> tuple[Tensor, Tensor]:
    """Half of the gradients of u and v; those of the smoothing matrices are added to `sums`.

    Shape: gradient [blocks, reach n and zeros] -> 2 x [rows, columns of part.even].
    """
    z, middle = gemm_cpu.halves_of(next(kept)), None
    if len(part.pools) == 3:
        middle = gemm_cpu.halves_of(next(kept))
    gemm_cpu.make_energies(z, middle, memory, chunk, piece)
    for pool, energy in zip(part.pools, memory.block_energies, strict=True):
        sums[id(pool)].addmm_(energy.t(), gradient)
        torch.mm(gradient, pool.t(), out=energy)  # the gradient of the energy takes its place
    gemm_cpu.mask_last_blocks(memory.energy, None if middle is None else memory.middle_energy, chunk, piece)
    for half, output in zip(memory.halves, z, strict=True):
        torch.mul(output, memory.energy, out=half)
    torch.add(*memory.signs, out=memory.paired[0])
    torch.sub(*memory.signs, out=memory.paired[1])
    used = memory.z.shape[2]
    if middle is not None:
        for target, output in zip(memory.middle, middle, strict=True):
            torch.mul(output, memory.middle_energy, out=target)
        used += part.n
    for columns in (memory.u, memory.v):
        columns[:, used:].zero_()
    return memory.u, memory.v


def blocks_gradient(bands: Tensor, piece: Piece, part: Part, lengths: Tensor | None) -> Tensor:
    """Gradient of what each block adds to the feature frames in its reach, from that of a piece's feature frames.

    Shape: bands [clips, n, frames] -> [clips blocks, reach n, and zeros up to the columns of the smoothing matrices].
    """
    frames, n = piece.fold.frames, part.n
    reached = bands.new_zeros(piece.clips, (piece.blocks + piece.fold.overlaps - 1) * frames.hops, n)
    own = reached[:, piece.owned()]
    own.copy_(bands.transpose(1, 2))
    if lengths is not None:
        gemm_cpu.zero_absent(own.transpose(1, 2), lengths, piece)
    blocks = bands.new_zeros(piece.clips, piece.blocks, part.pools[0].shape[1])
    windows = reached.view(piece.clips, -1).unfold(1, frames.reach * n, frames.hops * n)
    blocks[..., : frames.reach * n] = windows[:, : piece.blocks]
    return blocks.flatten(0, 1)


def differentiable_gradients(
    clips: Clips, filters: Sequence[GroupFilters], hop: int, gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """The same by autograd, operation by operation."""
    x = clips.padded[:, clips.origin : clips.origin + clips.samples]
    energies = gemm.energies(x, clips.lengths, filters, hop)
    if clips.lengths is not None:
        energies = mask_frames(energies, (clips.lengths - 1).div(hop, rounding_mode="floor") + 1)
    return torch.autograd.grad(energies, matrices_of(filters), gradient, create_graph=True, allow_unused=True)
