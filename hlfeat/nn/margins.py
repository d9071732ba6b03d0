"""Margins: samples on either side of a clip that are computed with it, so that its first and last frames see them.

Their frames are cut away again. How wide a margin has to be follows from the modules' receptive fields; what the
samples are, `audio.edges` of the configuration says, and hlfeat/audio/edges.py makes them.

A stack that looks at whole clips (instance norm) sees the clip alone, so the margin is that of the filterbank then. A
median over time is that of the clip's own frames. PCEN smooths from the margin's first frame on.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hlfeat.nn.extractor import Extractor
from hlfeat.nn.masking import Inside, mask_frames


class Margin(NamedTuple):
    """Samples at the modules' rate: of a margin, and of the grid on which it may begin, so that frames stay in place.

    `samples` is a multiple of `grid`.
    """

    samples: int
    grid: int


def margin_of(extractor: Extractor) -> Margin:
    """The least margin outside of which nothing has a say in a clip's frames."""
    frontend, stack = extractor.frontend, extractor.stack
    frames, stride = 0, 1
    if stack.receptive_field is not None:  # of the last output frame's inputs, stride - 1 may follow the clip's
        frames, stride = stack.receptive_field + stack.stride - 1, stack.stride
    grid = frontend.hop * stride
    samples = frontend.receptive_field() + frames * frontend.hop
    return Margin(-(-samples // grid) * grid, grid)


def inside(extractor: Extractor, before: int, length: int, lengths: Tensor | None = None) -> Inside:
    """The frontend's frames of the clips alone.

    Args:
        before: samples before each clip, a multiple of `margin_of(extractor).grid`.
        length: of the longest clip, in samples; lengths: [B], of each; None: all are as long.
    """
    frontend = extractor.frontend
    frames = None if lengths is None else frontend.num_frames(lengths)
    return Inside(before // frontend.hop, frontend.num_frames(length), frames)


def features_within(extractor: Extractor, x: Tensor, clip: Inside, lengths: Tensor | None = None) -> Tensor:
    """Features of clips that have more samples around them. In training mode, batch norms count the frames around too.

    Args:
        clip: `inside(extractor, ...)`.
        lengths: [B], of each clip with what is around it; None: as long as x.

    Shape: x [B, T] -> [B, C, F, N], N frames of the longest clip alone; frames past a clip's end are zero.

    >>> import hlfeat, torch
    >>> from hlfeat.audio.edges import reflect
    >>> extractor, x = hlfeat.build("log-mel").eval(), torch.ones(1, 16000)
    >>> margin = margin_of(extractor).samples
    >>> y = features_within(extractor, reflect(x, margin), inside(extractor, margin, 16000))
    >>> torch.equal(y[..., 0], y[..., 50]), torch.equal(extractor(x)[..., 0], extractor(x)[..., 50])
    (True, False)
    """
    extractor.follow_centre_freqs()
    frontend = extractor.frontend
    y = frontend(x, lengths, clip)
    return layers_within(extractor, y, clip, None if lengths is None else frontend.num_frames(lengths))


def layers_within(extractor: Extractor, y: Tensor, clip: Inside, frames: Tensor | None = None) -> Tensor:
    """The stack alone, after a frontend that has computed more frames than the clips'.

    Shape: y [B, F, N] or [B, C, F, N], frames [B] that exist, or None for all -> [B, C, F, N'] of the clips alone.
    """
    stack = extractor.stack
    if stack.receptive_field is None:
        return extractor.layers(mask_frames(clip.of(y), clip.frames), clip.frames)
    first = clip.first // stack.stride
    rows = extractor.layers(y, frames)[..., first : first + stack.num_frames(clip.n)]
    return mask_frames(rows, None if clip.frames is None else stack.num_frames(clip.frames))
