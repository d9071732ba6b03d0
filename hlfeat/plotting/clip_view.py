"""What the picture of a clip shows: its samples, features and filter responses, with their hertz and seconds.

hlfeat/plotting/figures.py draws them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.edges import Edges, Part
from hlfeat.audio.reader import Reader
from hlfeat.audio.resample import Resampler
from hlfeat.config.config import Config
from hlfeat.errors import ClipError, ConfigError, HlfeatError, UsageError
from hlfeat.extraction.options import DEFAULT_LIMITS
from hlfeat.extraction.streaming import ClipEdges, Steps, stream_frontend, stream_resampled, stream_stack
from hlfeat.nn.build import build
from hlfeat.nn.device import out_of_memory
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.base import Frontend
from hlfeat.nn.frontends.responses import Responses
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.nn.margins import margin_of
from hlfeat.nn.weights import UNTRAINED, load_weights
from hlfeat.plotting.columns import Columns, Ranges
from hlfeat.plotting.images import Grid, Image
from hlfeat.plotting.pitch_line import confident_hertz, line_of, wants_pitch
from hlfeat.text import escape_unprintable

log = logging.getLogger("hlfeat")


@dataclass(frozen=True)
class View:
    """A clip and its features in one configuration.

    Attributes:
        waveform: ranges of its samples, at `sample_rate`.
        span: beginning and end of the samples in the file, in seconds.
        frontend, stack: an image for each channel of their output; of the stack's, the first few.
        responses: of the frontend's filters; None if it has none.
    """

    title: str
    waveform: Ranges
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
    """Compute the features of a clip, on the CPU, in pieces as `extract` does: long clips take little memory.

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
    frontend, stack, rate = extractor.frontend, extractor.stack, extractor.sample_rate
    around = _margins(clip, config, extractor)
    length = around.length
    start = clip.start or 0.0
    span = (start, start + length / rate)
    grid = Grid(band_freqs(frontend), start, frontend.hop / rate, span)
    out_grid = stack_grid(extractor, span) if len(stack.layers) else grid
    with_line = wants_pitch(config, pitch, extractor.n_channels, out_grid.freqs)
    frames, out_frames = frontend.num_frames(length), extractor.num_frames(length)
    found = _Collected(
        waveform=Ranges(length),
        frontend=[Columns(frontend.n_bands, frames) for _ in frontend.quantities()],
        stack=[Columns(extractor.n_bands, out_frames) for _ in range(min(most, extractor.n_channels))],
        pitch_freqs=out_grid.freqs if with_line else None,
    )
    try:
        with torch.inference_mode():
            found.collect(clip, config, extractor, around)
    except ClipError as e:
        raise _unusable(clip, e) from e
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        raise HlfeatError(f"{escape_unprintable(clip.path)}: out-of-memory: too long", remedy="segment") from e
    line = line_of(np.concatenate(found.hertz), out_grid, found.stack[0].block) if with_line else None
    below = None if len(stack.layers) else line  # without a stack, the frontend's output is drawn
    fronts = [
        Image(columns.values, columns.grid(grid), name, unit, f"{name}, {unit}", below)
        for columns, (name, unit) in zip(found.frontend, frontend.quantities(), strict=True)
    ]
    stacked = []
    state = ", untrained" if weights is None and stack.is_random() else ""
    n = extractor.n_channels
    for i, columns in enumerate(found.stack if len(stack.layers) else []):
        name = f"stack{state}, channel {i} of {n}" if n > 1 else f"stack{state}"
        stacked.append(Image(columns.values, columns.grid(out_grid), name, "", f"{name}, {config.stack}", line))
    return View(title, found.waveform, rate, span, fronts, stacked, frontend.responses())


@dataclass
class _Collected:
    """What is kept of a clip while it is computed.

    Attributes:
        waveform, frontend, stack: ranges of samples, and columns of the channels.
        pitch_freqs: of the output's rows, if its pitch is wanted; hertz: its pitch.
    """

    waveform: Ranges
    frontend: list[Columns]
    stack: list[Columns]
    pitch_freqs: np.ndarray | None
    hertz: list[np.ndarray] = field(default_factory=list)

    def collect(self, clip: Clip, config: Config, extractor: Extractor, around: ClipEdges) -> None:
        edges, limits = around.edges, DEFAULT_LIMITS
        steps, inside = Steps(extractor, edges.resampler), around.frames(extractor)
        with _open(clip, config, edges) as reader, TemporaryDirectory() as scratch:
            blocks = map(torch.from_numpy, reader.blocks())
            samples = stream_resampled(steps, blocks, reader.sample_rate, map, limits, around)
            samples = self._samples(samples, Part(around.margins.before, around.length))
            features = stream_frontend(steps, samples, map, lambda: SpillFile(Path(scratch)), limits, inside)
            frames = Part(0, extractor.frontend.num_frames(around.length)) if inside is None else Part(*inside[:2])
            for y in stream_stack(steps, self._features(features, clip, frames), map, limits, inside):
                self._output(_channels(y), clip)

    def _samples(self, chunks: Iterable[Tensor], part: Part) -> Iterator[Tensor]:
        for x in chunks:
            if (own := part.of(x)) is not None:
                self.waveform.add(own[0].numpy())
            yield x

    def _features(self, chunks: Iterable[Tensor], clip: Clip, part: Part) -> Iterator[Tensor]:
        for y in chunks:
            _check_finite(_channels(y), clip)
            if (own := part.of(y)) is not None:
                for columns, channel in zip(self.frontend, _channels(own), strict=True):
                    columns.add(channel)
            yield y

    def _output(self, channels: np.ndarray, clip: Clip) -> None:
        _check_finite(channels, clip)
        for columns, channel in zip(self.stack, channels, strict=False):
            columns.add(channel)
        if self.pitch_freqs is not None:
            self.hertz.append(confident_hertz(channels[0], self.pitch_freqs))


def _channels(y: Tensor) -> np.ndarray:
    """Shape: [1, F, n] or [1, C, F, n] -> [C, F, n]."""
    return (y if y.dim() == 3 else y[0]).numpy()


def _check_finite(y: np.ndarray, clip: Clip) -> None:
    if not np.isfinite(y).all():
        raise HlfeatError(f"{escape_unprintable(clip.path)}: non-finite: its features are not finite numbers")


def _margins(clip: Clip, config: Config, extractor: Extractor) -> ClipEdges:
    """The length of a clip, and what is computed around it. Where the header does not say it, all samples are read.

    Raises HlfeatError, with path and failure code, if the clip cannot be used.
    """
    resampler = Resampler(extractor.sample_rate)
    edges = Edges(resampler, config.audio.edges, *margin_of(extractor))
    try:
        with _open(clip, config, edges) as reader:
            if reader.kept != 1:
                raise UsageError(
                    f"audio.channels: each makes {reader.kept} clips of {escape_unprintable(clip.path)}; "
                    "choose one: audio.channels=0"
                )
            samples = reader.samples
            if samples is None:
                samples = sum(block.shape[1] for block in reader.blocks()) - reader.before - reader.after
            old, new, _ = resampler.ratio(reader.sample_rate)
            return ClipEdges(edges, edges.margins(reader, samples), -(-samples * new // old))
    except ClipError as e:
        raise _unusable(clip, e) from e


def _open(clip: Clip, config: Config, edges: Edges) -> Reader:
    return Reader(clip, config.audio.channels, around=edges.to_read if edges.reads_context else None)


def _unusable(clip: Clip, error: ClipError) -> HlfeatError:
    return HlfeatError(f"{escape_unprintable(clip.path)}: {error.code}: {error}")


def band_freqs(frontend: Frontend) -> np.ndarray | None:
    """Frequencies of a frontend's bands in hertz [F]; None if trained filters have crossed."""
    return if_rising(frontend.centre_freqs().double().numpy())


def if_rising(freqs: np.ndarray | None) -> np.ndarray | None:
    """Frequencies that a picture's axis can have, or None. Shape: [F]."""
    return None if freqs is None or (np.diff(freqs) <= 0).any() else freqs


def stack_grid(extractor: Extractor, span: tuple[float, float]) -> Grid:
    """Where the rows and frames of an extractor's output lie."""
    stack, frame = extractor.stack, extractor.frontend.hop / extractor.sample_rate
    return Grid(if_rising(extractor.output_freqs()), span[0] + stack.shift * frame, stack.stride * frame, span)
