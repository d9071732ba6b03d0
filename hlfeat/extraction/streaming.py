"""A clip of any length in bounded memory: windows that overlap by what their neighbours look at.

Everything local in time is computed window by window. A window is longer than what is kept of it, by the receptive
field on either side; what depends on missing neighbours is cut away, so that the windows put together equal the whole.
What is not local keeps what it needs: PCEN its smoothed energies from window to window, the median over time a file,
and instance normalisation the whole clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from hlfeat.audio.edges import NO_MARGINS, Edges, Margins, part_of
from hlfeat.audio.resample import Resampler
from hlfeat.extraction.options import Limits
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.nn.margins import inside
from hlfeat.nn.masking import Inside

Y = TypeVar("Y")
_ALL = 1 << 62  # units: a window that no clip is longer than


@dataclass(frozen=True)
class Step(Generic[Y]):
    """One of `Steps`, as a function; another process finds it by its name.

    Attributes:
        name: of the method; arguments: that follow the tensor.
        call: the method, in this process.
    """

    name: str
    call: Callable[..., Y]
    arguments: tuple[Any, ...] = ()

    def __call__(self, x: Tensor) -> Y:
        return self.call(x, *self.arguments)


class MapInOrder(Protocol):
    """Maps a step over tensors, with results in order: `map`, or one that uses batches or processes."""

    def __call__(self, step: Step[Y], items: Iterable[Tensor], /) -> Iterator[Y]: ...


@dataclass(frozen=True)
class Steps:
    """The steps of computing a long clip, each of which treats a window alone."""

    extractor: Extractor
    resampler: Resampler

    def resample(self, x: Tensor, sample_rate: int) -> Tensor:
        """Shape: [1, t] -> [1, t']."""
        return self.resampler(x, sample_rate)

    def bands(self, x: Tensor) -> Tensor:
        """Shape: [1, t] -> [1, F, n]."""
        return self.extractor.frontend.compute_bands(x, None)

    def layers(self, y: Tensor) -> Tensor:
        """Shape: [1, F, n] or [1, C, F, n] -> [1, C, F, n]."""
        return self.extractor.layers(y)


@dataclass(frozen=True)
class ClipEdges:
    """What is computed around a clip, and the clip's length in samples after resampling."""

    edges: Edges
    margins: Margins
    length: int

    def frames(self, extractor: Extractor) -> Inside | None:
        """The frontend's frames of the clip alone; None: there are no others."""
        return None if self.margins == NO_MARGINS else inside(extractor, self.margins.before, self.length)


class _Cutter:
    """Cuts a signal into windows of so many units, with a margin on either side.

    Args:
        chunks: the signal, cut anywhere: [..., t] each.
        unit: samples that belong together.
        units: of a window, without margins; margin: units on either side.
    """

    def __init__(self, chunks: Iterable[Tensor], unit: int, units: int, margin: int) -> None:
        self._chunks, self._unit, self._units, self._margin = iter(chunks), unit, units, margin
        self._held: list[Tensor] = []  # the signal from the margin before the next window on
        self._size = 0  # samples held
        self._left = 0  # units held before the next window
        self._ended = False

    def windows(self) -> Iterator[tuple[Tensor, int, bool]]:
        """Windows with their margins [..., t]: the units of the left margin, and whether it is the last window."""
        while True:
            wanted = (self._left + self._units + self._margin) * self._unit
            self._fill(wanted)
            if self._size == 0:
                return
            signal = torch.cat(self._held, -1) if len(self._held) > 1 else self._held[0]
            last = self._ended and self._size <= (self._left + self._units) * self._unit
            yield signal if last else signal[..., :wanted], self._left, last
            if last:
                return
            self._drop(signal)

    def _fill(self, wanted: int) -> None:
        """Take chunks until more than so many samples are held, or the signal ends."""
        while not self._ended and self._size <= wanted:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
            else:
                self._held.append(chunk)
                self._size += chunk.shape[-1]

    def _drop(self, signal: Tensor) -> None:
        """Forget what lies before the margin of the next window."""
        drop = max(0, self._left + self._units - self._margin)
        self._left += self._units - drop
        self._held = [signal[..., drop * self._unit :].clone()]
        self._size -= drop * self._unit


def apply_in_windows(
    chunks: Iterable[Tensor],
    step: Step[Tensor],
    map_in_order: MapInOrder,
    *,
    unit: int,
    outputs: int,
    receptive_field: int,
    units: int,
) -> Iterator[Tensor]:
    """The step of a whole signal, from windows of it.

    `unit` inputs along time make `outputs`, which depend on the unit and on at most `receptive_field` inputs on either
    side of it.

    Args:
        chunks: the signal, cut anywhere; [..., t] each.
        step: [..., t] -> [..., t'].
        map_in_order: how to map the step over the windows.
        units: of a window, without its margins.
    """
    cutter = _Cutter(chunks, unit, units, margin=-(-receptive_field // unit))
    crops: deque[tuple[int, int | None]] = deque()  # of the outputs of windows that were begun

    def windows() -> Iterator[Tensor]:
        for window, left, last in cutter.windows():
            crops.append((left * outputs, None if last else (left + units) * outputs))
            yield window

    for y in map_in_order(step, windows()):
        start, stop = crops.popleft()
        yield y[..., start:stop]


def stream_features(
    steps: Steps,
    samples: Iterable[Tensor],
    sample_rate: int,
    map_in_order: MapInOrder,
    open_spill: Callable[[], SpillFile],
    limits: Limits,
    around: ClipEdges | None = None,
) -> Iterator[Tensor]:
    """Features of one clip, chunk by chunk, equal to those in one piece up to rounding.

    Args:
        samples: of one channel, with what was read around it, at `sample_rate`.
        map_in_order: how a step is mapped over windows.
        open_spill: opens a file for what does not fit into memory.
        around: margins, whose frames are computed and left out.

    Shape: samples [1, t] each -> [n, C, F] each.
    """
    steps.extractor.follow_centre_freqs()
    clip = None if around is None else around.frames(steps.extractor)
    samples = stream_resampled(steps, samples, sample_rate, map_in_order, limits, around)
    features = stream_frontend(steps, samples, map_in_order, open_spill, limits, clip)
    for y in stream_stack(steps, features, map_in_order, limits, clip):  # [1, F, n] or [1, C, F, n]
        yield (y[:, None] if y.dim() == 3 else y)[0].permute(2, 0, 1)


def stream_resampled(
    steps: Steps,
    samples: Iterable[Tensor],
    sample_rate: int,
    map_in_order: MapInOrder,
    limits: Limits,
    around: ClipEdges | None = None,
) -> Iterable[Tensor]:
    """The samples at the extractor's rate, with the clip's margins. Shape: [1, t] each -> [1, t'] each."""
    resampler = steps.resampler
    if sample_rate != resampler.rate:
        old, new, receptive_field = resampler.ratio(sample_rate)
        samples = apply_in_windows(
            samples,
            Step("resample", steps.resample, (sample_rate,)),
            map_in_order,
            unit=old,
            outputs=new,
            receptive_field=receptive_field,
            units=max(1, limits.window_samples // old),
        )
    if around is None:
        return samples
    return around.edges.apply_to_stream(samples, sample_rate, around.margins, around.length)


def stream_frontend(
    steps: Steps,
    samples: Iterable[Tensor],
    map_in_order: MapInOrder,
    open_spill: Callable[[], SpillFile],
    limits: Limits,
    clip: Inside | None = None,
) -> Iterator[Tensor]:
    """The output of the frontend, with the frames around the clip's.

    Shape: [1, t] each -> [1, F, n] or [1, C, F, n] each.
    """
    frontend = steps.extractor.frontend
    bands = apply_in_windows(
        samples,
        Step("bands", steps.bands),
        map_in_order,
        unit=frontend.hop,
        outputs=1,
        receptive_field=frontend.receptive_field(),
        units=max(1, limits.window_samples // frontend.hop),
    )
    return frontend.compress_stream(bands, open_spill, *frontend.said_inside(clip))


def stream_stack(
    steps: Steps,
    features: Iterator[Tensor],
    map_in_order: MapInOrder,
    limits: Limits,
    clip: Inside | None = None,
) -> Iterator[Tensor]:
    """The output of the stack for the clip alone, or the clip's features themselves where there is none.

    Shape: [1, F, n] or [1, C, F, n] each, both.
    """
    stack = steps.extractor.stack
    local = stack.receptive_field is not None
    if clip is not None and not local:
        features = part_of(features, clip.first, clip.n)
    if len(stack.layers):
        features = apply_in_windows(
            features if local else _in_one_piece(features),
            Step("layers", steps.layers),
            map_in_order if local else map,  # a whole clip stays where it is
            unit=stack.stride,
            outputs=1,
            receptive_field=stack.receptive_field or 0,
            units=max(1, limits.window_frames // stack.stride) if local else _ALL,
        )
    if clip is None or not local:
        return features
    return part_of(features, clip.first // stack.stride, stack.num_frames(clip.n))


def _in_one_piece(chunks: Iterator[Tensor]) -> Iterator[Tensor]:
    yield torch.cat(list(chunks), -1)
