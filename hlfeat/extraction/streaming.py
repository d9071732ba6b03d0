"""A clip of any length in bounded memory: pieces that overlap by what their neighbours look at.

Everything local in time is computed window by window. A window reaches over its ends as far as the computation looks,
and what the missing neighbours would have changed is cut away; so pieces put together equal the whole. What is not
local keeps what it needs: PCEN its smoothed energies from piece to piece, the median over time a spool on the disk, and
instance normalisation the whole clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from hlfeat.audio.resample import Resampler
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.spill import SpillFile

WINDOW_SAMPLES = 1 << 19  # that a window of the frontend or of the resampler is about
WINDOW_FRAMES = 1 << 11  # that a window of the stack is about
Apply = Callable[[Tensor], Tensor]
InOrder = Callable[[Apply, Iterable[Tensor]], Iterator[Tensor]]


def overlapped(
    pieces: Iterable[Tensor], apply: Apply, in_order: InOrder, *, unit: int, out: int, reach: int, units: int
) -> Iterator[Tensor]:
    """`apply` of a whole signal, from windows of it.

    `unit` inputs along time make `out` outputs, and these look at `reach` inputs on either side of the unit at most.

    Args:
        pieces: the signal, cut anywhere; [..., t] each.
        apply: [..., t] -> [..., t'].
        in_order: how to map `apply` over the windows.
        units: of a window, without what it reaches over.
    """
    margin = -(-reach // unit)  # units
    crops: deque[tuple[int, int | None]] = deque()

    def windows() -> Iterator[Tensor]:
        source = iter(pieces)
        held: list[Tensor] = []  # the signal from `margin` units before the next window on
        left, size, over = 0, 0, False  # units held before the next window; inputs held
        while True:
            wanted = (left + units + margin) * unit
            while not over and size <= wanted:
                piece = next(source, None)
                over = piece is None
                if piece is not None:
                    held.append(piece)
                    size += piece.shape[-1]
            if size == 0:
                return
            signal = torch.cat(held, -1) if len(held) > 1 else held[0]
            last = over and size <= (left + units) * unit
            crops.append((left * out, None if last else (left + units) * out))
            yield signal if last else signal[..., :wanted]
            if last:
                return
            drop = max(0, left + units - margin)
            left = left + units - drop
            held, size = [signal[..., drop * unit :].clone()], size - drop * unit

    for y in in_order(apply, windows()):
        start, stop = crops.popleft()
        yield y[..., start:stop]


def stream(
    extractor: Extractor,
    samples: Iterable[Tensor],
    sample_rate: int,
    resampler: Resampler,
    in_order: InOrder,
    spool: Callable[[], SpillFile],
) -> Iterator[Tensor]:
    """Features of one clip, piece by piece, equal to those in one piece up to rounding.

    Shape: samples [1, t] each, at `sample_rate` -> [n, C, F] each.
    """
    frontend, stack = extractor.frontend, extractor.stack
    extractor.follow_centre_freqs()
    if sample_rate != resampler.rate:
        old, new, reach = resampler.ratio(sample_rate)
        samples = overlapped(
            samples,
            lambda x: resampler(x, sample_rate),
            in_order,
            unit=old,
            out=new,
            reach=reach,
            units=max(1, WINDOW_SAMPLES // old),
        )
    local = overlapped(
        samples,
        lambda x: frontend.compute_bands(x, None),
        in_order,
        unit=frontend.hop,
        out=1,
        reach=frontend.receptive_field(),
        units=max(1, WINDOW_SAMPLES // frontend.hop),
    )
    bands = frontend.compress_stream(local, spool)
    if len(stack.layers):
        if stack.receptive_field is None:
            bands = iter([torch.cat(list(bands), -1)])
        bands = overlapped(
            bands,
            extractor.layers,
            in_order,
            unit=stack.stride,
            out=1,
            reach=stack.receptive_field or 0,
            units=1 << 62 if stack.receptive_field is None else max(1, WINDOW_FRAMES // stack.stride),
        )
    for y in bands:  # [1, F, n] or [1, C, F, n]
        yield (y[:, None] if y.dim() == 3 else y)[0].permute(2, 0, 1)
