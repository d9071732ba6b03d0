"""What the picture of a clip shows: its samples, features and filter responses, with their hertz and seconds.

hlfeat/plotting/figures.py draws them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.edges import Edges, Margins, read_extended
from hlfeat.audio.resample import Resampler
from hlfeat.config.config import Config
from hlfeat.errors import ClipError, ConfigError, HlfeatError, UsageError
from hlfeat.nn.build import build
from hlfeat.nn.device import out_of_memory
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.base import Frontend
from hlfeat.nn.frontends.responses import Responses
from hlfeat.nn.margins import inside, layers_within, margin_of
from hlfeat.nn.weights import UNTRAINED, load_weights
from hlfeat.plotting.images import Grid, Image
from hlfeat.plotting.pitch_line import with_pitch
from hlfeat.text import escape_unprintable

log = logging.getLogger("hlfeat")


@dataclass(frozen=True)
class View:
    """A clip and its features in one configuration.

    Attributes:
        samples: [T], at `sample_rate`.
        span: beginning and end of the samples in the file, in seconds.
        frontend, stack: an image for each channel of their output; of the stack's, the first few.
        responses: of the frontend's filters; None if it has none.
    """

    title: str
    samples: np.ndarray
    sample_rate: int
    span: tuple[float, float]
    frontend: list[Image]
    stack: list[Image]
    responses: Responses | None


def view(
    clip: Clip,
    config: Config,
    title: str,
    weights: Path | None = None,
    most: int = 4,
    pitch: bool | None = None,
) -> View:
    """Compute the features of a clip, on the CPU.

    A segment is computed as from a manifest: what it sees beyond its ends, `audio.edges` says; a median over time is
    that of the segment.

    Args:
        title: of the view.
        weights: file of trained weights.
        most: how many channels of a stack's output to keep.
        pitch: draw the pitch into the output; None: if it is a salience.

    Raises:
        UsageError: `pitch` of an output that has several channels, or rows without frequencies.
        ConfigError: the modules cannot be built, or the weights do not fit.
        HlfeatError: the clip cannot be used; the message has its failure code.
    """
    extractor = build(config)
    if weights is not None:
        load_weights(extractor, weights)
    elif extractor.stack.is_random():
        log.warning(UNTRAINED, config.seed)
    try:
        extractor.follow_centre_freqs()
    except ValueError as e:
        raise ConfigError(f"{weights}: {e}") from e
    extractor.eval()
    x, margins, length = read(clip, config, extractor)
    samples = x[margins.before : margins.before + length]
    within = inside(extractor, margins.before, length)
    try:
        with torch.inference_mode():
            y = extractor.frontend(x[None], None, within)  # [1, F, N] or [1, C, F, N]
            features = within.of(y if y.dim() == 4 else y[:, None])
            out = layers_within(extractor, y, within) if len(extractor.stack.layers) else None
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        raise HlfeatError(
            f"{escape_unprintable(clip.path)}: out-of-memory: too long in one piece", remedy="segment"
        ) from e
    if not bool(torch.isfinite(features if out is None else out).all()):
        raise HlfeatError(f"{escape_unprintable(clip.path)}: non-finite: its features are not finite numbers")
    start = clip.start or 0.0
    span = (start, start + len(samples) / extractor.sample_rate)
    grid = Grid(band_freqs(extractor.frontend), start, extractor.frontend.hop / extractor.sample_rate, span)
    frontend = [
        Image(y.numpy(), grid, name, unit, f"{name}, {unit}")
        for y, (name, unit) in zip(features[0], extractor.frontend.quantities(), strict=True)
    ]
    stack = []
    if out is not None:
        state = ", untrained" if weights is None and extractor.stack.is_random() else ""
        n = out.shape[1]
        for i, y in enumerate(out[0, :most]):
            name = f"stack{state}, channel {i} of {n}" if n > 1 else f"stack{state}"
            stack.append(Image(y.numpy(), stack_grid(extractor, span), name, "", f"{name}, {config.stack}"))
    if out is None:
        frontend = with_pitch(frontend, config, pitch, len(frontend))
    else:
        stack = with_pitch(stack, config, pitch, out.shape[1])
    responses = extractor.frontend.responses()
    return View(title, samples.numpy(), extractor.sample_rate, span, frontend, stack, responses)


def read(clip: Clip, config: Config, extractor: Extractor) -> tuple[Tensor, Margins, int]:
    """The samples of a clip at the configuration's rate, with margins [T]; these; and its length without them.

    Raises HlfeatError, with path and failure code, if the clip cannot be used.
    """
    resampler = Resampler(config.audio.sample_rate)
    edges = Edges(resampler, config.audio.edges, *margin_of(extractor))
    try:
        x, margins, length = read_extended(clip, config.audio.channels, edges)
    except ClipError as e:
        raise HlfeatError(f"{escape_unprintable(clip.path)}: {e.code}: {e}") from e
    if len(x) != 1:
        raise UsageError(
            f"audio.channels: each makes {len(x)} clips of {escape_unprintable(clip.path)}; "
            "choose one: audio.channels=0"
        )
    return x[0], margins, length


def band_freqs(frontend: Frontend) -> np.ndarray | None:
    """Frequencies of a frontend's bands in hertz [F]; None if trained filters have crossed."""
    return if_rising(frontend.centre_freqs().double().numpy())


def if_rising(freqs: np.ndarray | None) -> np.ndarray | None:
    """Frequencies that a picture's axis can have, or None. Shape: [F]."""
    return None if freqs is None or (np.diff(freqs) <= 0).any() else freqs


def stack_grid(extractor: Extractor, span: tuple[float, float]) -> Grid:
    """Where the rows and frames of an extractor's output lie."""
    first, step = (samples / extractor.sample_rate for samples in (extractor.first_centre, extractor.hop))
    return Grid(if_rising(extractor.output_freqs()), span[0] + first, step, span)
