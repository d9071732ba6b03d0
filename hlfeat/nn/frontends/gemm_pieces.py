"""How a CPU divides the energies of a Gabor filterbank: folds of groups, pieces of clips, chunks in cache.

Pieces depend on the input and the filters alone, never on the number of threads: neither do the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hlfeat.nn.frontends.gemm_plan import LEAST_BLOCKS, Frames, GroupFilters, blocks_of
from hlfeat.nn.threads import parallel_map

# Values in the intermediate results of one chunk, which stay in cache (of the third level). In smaller chunks the
# interpreter's share grows more than memory's falls.
CHUNK = 1 << 20
PIECE_CHUNKS = 4  # a piece has about as many: it is what one thread holds up when the system keeps it waiting
PIECE_OVERLAPS = 8  # and it has this many times the blocks that it shares with the piece before


@dataclass(frozen=True)
class Fold:
    """Groups whose frames have the same centres, the widest first: they share the folding.

    These are groups with the same outputs of a frame at the same stride. A narrower group's folded frame is the inner
    part of the widest one's: its last columns.
    """

    groups: list[GroupFilters]

    @property
    def frames(self) -> Frames:
        return self.groups[0].frames

    @property
    def frames_of_block(self) -> int:
        return self.frames.block // self.frames.outputs

    @property
    def hop(self) -> int:
        """Samples from feature frame to feature frame."""
        return self.frames.group.stride * self.frames.group.pool_stride

    @property
    def overlaps(self) -> int:
        """Blocks that reach one feature frame."""
        return -(-self.frames.reach // self.frames.hops)

    @property
    def runs(self) -> int:
        """Runs of a frame's advance that hold the second half of a frame."""
        return -(-self.frames.folded // self.frames.advance)

    @property
    def before(self) -> int:
        """Samples before a clip's first that are read, as zeros."""
        early = self.runs * self.frames.advance - self.frames.width  # the first run may begin before the first frame
        return self.frames.group.kernel // 2 + max(0, early)

    def end(self, samples: int) -> int:
        """The sample behind the last that is read, counted from a clip's first."""
        frames = self.frames
        last = blocks_of(frames, samples) * self.frames_of_block - 1
        return last * frames.advance + frames.width - frames.group.kernel // 2


def folds_of(filters: Sequence[GroupFilters]) -> list[Fold]:
    """Groups, sorted by what they can share."""
    shared: dict[tuple[int, int], list[GroupFilters]] = {}
    for f in filters:
        shared.setdefault((f.frames.outputs, f.frames.group.stride), []).append(f)
    return [Fold(sorted(groups, key=lambda f: -f.frames.width)) for groups in shared.values()]


@dataclass(frozen=True)
class Piece:
    """Feature frames `start` to `stop` of clips `first` to `last`: blocks `begin` to `end` reach them."""

    fold: Fold
    first: int
    last: int
    start: int
    stop: int
    begin: int
    end: int
    chunks: int

    @property
    def clips(self) -> int:
        return self.last - self.first

    @property
    def blocks(self) -> int:
        return self.end - self.begin

    def cuts(self) -> Iterator[slice]:
        """Blocks of each chunk, counted from the piece's first."""
        for i in range(self.chunks):
            yield slice(i * self.blocks // self.chunks, (i + 1) * self.blocks // self.chunks)

    def owned(self) -> slice:
        """Its feature frames among all that its blocks reach."""
        earliest = self.begin * self.fold.frames.hops + self.fold.frames.earliest
        return slice(self.start - earliest, self.stop - earliest)


def cut(fold: Fold, clips: int, samples: int) -> list[Piece]:
    """Pieces that together make all feature frames of all clips; short clips share one.

    A chunk has at least twice LEAST_BLOCKS blocks, or all of a clip.
    """
    columns = max(part.even.shape[1] for f in fold.groups for part in f.parts)
    values = fold.frames_of_block * (2 * fold.frames.folded + fold.frames.advance + 6 * columns)  # of a block
    at_once = max(2 * LEAST_BLOCKS, CHUNK // values)
    blocks, frames = blocks_of(fold.frames, samples), (samples - 1) // fold.hop + 1
    if blocks <= at_once:
        items = at_once // blocks
        return [Piece(fold, i, min(i + items, clips), 0, frames, 0, blocks, 1) for i in range(0, clips, items)]
    pieces = []
    count = max(1, blocks // max(PIECE_CHUNKS * at_once, PIECE_OVERLAPS * fold.overlaps))
    for i in range(count):
        own, end = i * blocks // count, (i + 1) * blocks // count
        start = max(0, own * fold.frames.hops + fold.frames.earliest)
        stop = frames if end == blocks else min(frames, end * fold.frames.hops + fold.frames.earliest)
        begin = max(0, own - fold.overlaps + 1)
        pieces.append((start, stop, begin, end, -(-(end - begin) // at_once)))
    return [Piece(fold, clip, clip + 1, *piece) for clip in range(clips) for piece in pieces]


@dataclass(frozen=True)
class Clips:
    """Clips with zeros around them: sample `origin` of `padded` is the first of `samples`.

    Shape: padded [B, ...]; lengths [B] or None.
    """

    padded: Tensor
    origin: int
    samples: int
    lengths: Tensor | None

    def runs(self, piece: Piece, first: int, count: int, width: int) -> Tensor:
        """`count` runs of `width` samples of a piece's clips, a frame's advance apart.

        Shape: `first` counted from the first sample of the piece's first frame -> [clips, count, width], a view.
        """
        frames, size = piece.fold.frames, self.padded.shape[1]
        first += self.origin - frames.group.kernel // 2 + piece.begin * piece.fold.frames_of_block * frames.advance
        return self.padded.as_strided(
            (piece.clips, count, width), (size, frames.advance, 1), piece.first * size + first
        )

    def inside(self, piece: Piece) -> list[Tensor] | None:
        """Which outputs of a piece's last blocks lie inside their clip: 1.0 or 0.0. Those of the blocks before do.

        Shape: -> outputs with a mirror image, and those images: [2, clips or 1, blocks, frames of a block, outputs, 1],
            and the one in the middle if there is one: [clips or 1, blocks, frames of a block, 1, 1]; None: all are.
        """
        frames = piece.fold.frames
        lengths = None if self.lengths is None else self.lengths[piece.first : piece.last]
        shortest = self.samples if lengths is None else int(lengths.min())
        first = max(piece.begin, 0, (shortest - 1) // frames.group.stride // frames.block)
        if first >= piece.end:
            return None
        sample = torch.arange(first * frames.block, piece.end * frames.block, device="cpu") * frames.group.stride
        inside = sample < (self.samples if lengths is None else lengths[:, None])
        inside = inside.to(self.padded.dtype)
        inside = inside.view(-1, piece.end - first, piece.fold.frames_of_block, frames.outputs, 1)
        half = frames.outputs // 2
        mirrored = inside.narrow(-2, frames.outputs - half, half).flip(-2)
        paired = torch.stack([inside.narrow(-2, 0, half), mirrored])
        return [paired, inside.narrow(-2, half, 1)] if frames.outputs % 2 else [paired]


def padded_clips(x: Tensor, lengths: Tensor | None, folds: Sequence[Fold]) -> Clips:
    """Clips with the zeros that the folds read; what lies past a clip's end is zero, whatever x has there."""
    samples = x.shape[1]
    before = max(fold.before for fold in folds)
    after = max(0, *(fold.end(samples) - samples for fold in folds))
    padded = x.new_empty(x.shape[0], before + samples + after)
    ends = [samples] * x.shape[0] if lengths is None else lengths.tolist()
    items = max(1, CHUNK // padded.shape[1])

    def copy(first: int) -> None:
        some = slice(first, first + items)
        padded[some, :before].zero_()
        padded[some, before : before + samples] = x[some]
        padded[some, before + samples :].zero_()
        for row, end in zip(padded[some], ends[some], strict=True):
            if end < samples:
                row[before + end :].zero_()

    parallel_map(copy, range(0, x.shape[0], items))
    return Clips(padded, before, samples, lengths)
