"""What a clip's first and last frames see beyond its ends: zeros, the clip mirrored, or the recording around a segment.

Modules put zeros around what they get. For other edges they get a margin of samples on either side of the clip, whose
frames are cut away (hlfeat/nn/margins.py): of a segment's recording, before resampling, or of the clip mirrored, after
it. A margin that a recording's end cuts short is no longer than the recording, so that its modules put zeros where they
put them for the whole recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import Reader, decode_with_margins
from hlfeat.audio.resample import Resampler


class Margins(NamedTuple):
    """Samples that are computed before and after a clip, at the configuration's rate."""

    before: int = 0
    after: int = 0


NO_MARGINS = Margins()


@dataclass(frozen=True)
class Edges:
    """Margins of one kind.

    Args:
        resampler: to the configuration's rate.
        mode: "zeros", "reflect" or "context".
        margin: samples at that rate that suffice on either side.
        grid: of which `margin` is a multiple, and all margins before a clip.
    """

    resampler: Resampler
    mode: str = "zeros"
    margin: int = 0
    grid: int = 1

    @property
    def reads_context(self) -> bool:
        """Whether segments are read with what is around them."""
        return self.mode == "context" and self.margin > 0

    def to_read(self, rate: int, first: int) -> tuple[int, int]:
        """How many samples are read before and after a segment, at its file's rate.

        There are so many before it, zeros in front of the recording included, and at most so many after it.

        Args:
            rate: of the file.
            first: sample of the file with which the segment begins.
        """
        old, new, width = self.resampler.ratio(rate)
        reach = 0 if old == new else -(-width * new // old) + 1  # of the resampler, at the configuration's rate
        whole = -(-(self.margin + reach) // new) * old  # a multiple of old, which keeps the resampler's phase
        rows = -(-first * new // (old * self.grid))  # of the grid, up to the recording's beginning
        if rows * self.grid >= self.margin:
            return whole, whole
        return self.samples_read(rate, Margins(rows * self.grid)), whole

    def samples_read(self, rate: int, margins: Margins) -> int:
        """Samples before a clip in what is read, at its file's rate, for these margins of it."""
        if not self.reads_context or margins == NO_MARGINS:
            return 0
        if margins.before >= self.margin:
            return self.to_read(rate, 1 << 62)[0]
        old, new, _ = self.resampler.ratio(rate)
        return -(-margins.before // new) * old

    def margins(self, reader: Reader, samples: int) -> Margins:
        """The margins of a clip of so many samples, which has been read, or whose header was; a file has no context."""
        if self.mode == "reflect":
            return Margins(self.margin, self.margin)
        if not self.reads_context:
            return NO_MARGINS
        old, new, _ = self.resampler.ratio(reader.sample_rate)
        before = min(self.margin, -(-reader.first * new // (old * self.grid)) * self.grid)
        after = -(-(samples + reader.after) * new // old) + -samples * new // old
        return Margins(before, min(self.margin, after))

    def surplus(self, rate: int, margins: Margins) -> int:
        """Samples after resampling that come before the margin: whatever the resampler needed."""
        old, new, _ = self.resampler.ratio(rate)
        return self.samples_read(rate, margins) // old * new - margins.before if self.reads_context else 0

    def apply(self, x: Tensor, rate: int, margins: Margins, length: int, lengths: Tensor | None = None) -> Tensor:
        """Clips with their margins, and nothing else.

        Args:
            x: as they were read, resampled.
            rate: of their files.
            margins: those before a clip are of all clips, those after it of the one that has most with its length.
            length: of the longest clip alone; lengths: [B], of each; None: they are as long as x.

        Shape: x [B, T'] -> [B, before + length + after].
        """
        if margins == NO_MARGINS:
            return x
        if self.mode == "reflect":
            return reflect(x[:, :length], self.margin, lengths)
        first = self.surplus(rate, margins)
        return x[:, first : first + margins.before + length + margins.after]

    def apply_to_stream(self, chunks: Iterable[Tensor], rate: int, margins: Margins, length: int) -> Iterator[Tensor]:
        """The same of one clip in chunks [1, t]."""
        if margins == NO_MARGINS:
            return iter(chunks)
        if self.mode == "reflect":
            return reflect_stream(chunks, self.margin)
        return part_of(chunks, self.surplus(rate, margins), margins.before + length + margins.after)


class ExtendedClip(NamedTuple):
    """A clip with its margins: samples [C, before + length + after] at the configuration's rate."""

    samples: Tensor
    margins: Margins
    length: int


def read_extended(clip: Clip, channels: str | int, edges: Edges) -> ExtendedClip:
    """Read a clip whole. Raises ClipError, as Reader does."""
    whole, reader = decode_with_margins(clip, channels, edges.to_read if edges.reads_context else None)
    samples = whole.shape[1] - reader.before - reader.after
    margins, (old, new, _) = edges.margins(reader, samples), edges.resampler.ratio(reader.sample_rate)
    length = -(-samples * new // old)
    x = edges.resampler(torch.from_numpy(whole), reader.sample_rate)
    return ExtendedClip(edges.apply(x, reader.sample_rate, margins, length), margins, length)


def reflect(x: Tensor, margin: int, lengths: Tensor | None = None) -> Tensor:
    """Clips continued at both ends by their mirror image, without repeating the sample at the end.

    It bounces from end to end where a clip is shorter than the margin; one sample alone goes on as it is. That is
    numpy.pad's "reflect".

    Args:
        lengths: [B], of clips that are padded on the right, from 1; None: all are as long as x.

    Shape: x [B, T] -> [B, margin + T + margin]; what follows a shorter clip's margin may be anything.

    >>> import torch
    >>> reflect(torch.tensor([[1, 2, 3]]), 4)
    tensor([[1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3]])
    """
    if lengths is None:
        lengths = torch.full((len(x),), x.shape[1], device=x.device)
    last = (lengths - 1)[:, None]  # [B, 1]
    steps = torch.arange(margin, device=x.device)
    y = torch.nn.functional.pad(x, (margin, margin))
    y[:, :margin] = x.gather(1, _bounced(steps - margin, last))
    return y.scatter(1, last + (1 + margin) + steps, x.gather(1, _bounced(last + 1 + steps, last)))


def _bounced(position: Tensor, last: Tensor) -> Tensor:
    """The sample of a clip that stands at a position beyond its ends. Shape: [..., n], [B, 1] -> [B, n]."""
    there_and_back = 2 * last
    position = position.remainder(there_and_back.clamp(min=1))
    return torch.minimum(position, there_and_back - position).clamp(min=0)


def reflect_stream(chunks: Iterable[Tensor], margin: int) -> Iterator[Tensor]:
    """`reflect` of one clip in chunks, of which the last margin is held back. Shape: [1, t] each -> [1, t'] each."""
    rest = iter(chunks)
    held: list[Tensor] = []
    while sum(x.shape[1] for x in held) <= margin:
        x = next(rest, None)
        if x is None:  # it bounces more than once
            yield reflect(torch.cat(held, 1), margin)
            return
        held.append(x)
    clip = torch.cat(held, 1)
    yield clip[:, 1 : margin + 1].flip(1)
    for x in rest:
        yield clip[:, : -margin - 1]
        clip = torch.cat([clip[:, -margin - 1 :], x], 1)
    yield clip
    yield clip[:, -margin - 1 : -1].flip(1)


def part_of(chunks: Iterable[Tensor], first: int, count: int) -> Iterator[Tensor]:
    """So many samples or frames of a signal in chunks, which is read to its end. No chunk is empty.

    Shape: [..., t] each -> [..., t'] each.
    """
    part = Part(first, count)
    for x in chunks:
        own = part.of(x)
        if own is not None:
            yield own


class Part:
    """So many samples or frames of a signal in chunks, which are shown to it in order."""

    def __init__(self, first: int, count: int) -> None:
        self._left_out, self._left = first, count

    def of(self, x: Tensor) -> Tensor | None:
        """What is in the next chunk; None: nothing. Shape: [..., t] -> [..., t']."""
        start = min(self._left_out, x.shape[-1])
        own = x[..., start : start + self._left]
        self._left_out -= start
        self._left -= own.shape[-1]
        return own if own.shape[-1] else None
