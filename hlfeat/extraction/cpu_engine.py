"""Features computed by the workers that read the clips.

Every worker computes what it has read, with one thread of torch's: nothing waits for anything, and no sum depends on
the number of cores. Clips of a few seconds share what costs as much for one as for twenty: the filterbank's matrix
products, whose rows do not see one another, and, where they have the same number of frames, all other operations that
round a clip in a batch as they round it alone. So neither batches nor workers change the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError
from hlfeat.extraction.batching import pad, plan_batches
from hlfeat.extraction.clip_loader import Cancelled, ClipLoader
from hlfeat.extraction.engine import ClipStreamer, FeatureArrays, hold, join_channels, largest_sample
from hlfeat.extraction.events import ClipInfo, Event, FeatureChunk, HeldFeatures, LoadedClip, WorkerEvent
from hlfeat.extraction.options import Limits
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import PoolMap
from hlfeat.nn.device import out_of_memory
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.margins import inside, layers_within
from hlfeat.nn.masking import Inside
from hlfeat.statistics.moments import moments_of_each


class CpuEngine:
    """Computes in the workers; an Engine.

    Args:
        extractor: in eval mode, on the CPU.
        postprocessor: what is done to features before they are written.
        loader: reads clips.
        dtype: of what is written.
        limits: how much is computed at once.
    """

    def __init__(
        self,
        extractor: Extractor,
        postprocessor: PostProcessor,
        loader: ClipLoader,
        dtype: np.dtype[Any],
        limits: Limits,
    ) -> None:
        self._extractor, self._postprocessor, self.loader = extractor, postprocessor, loader
        self._batch_samples = limits.cpu_batch_samples
        self._arrays = FeatureArrays(dtype)
        self._streamer = ClipStreamer(extractor, postprocessor, loader, self._arrays, limits)
        self.apply = self._streamer.apply

    def start_worker(self) -> None:
        torch.set_num_threads(1)

    def in_worker(self, clips: list[Clip], cancelled: Cancelled) -> list[WorkerEvent]:
        """Read the clips, and compute those that are not long."""
        events = self.loader.load_all(clips, cancelled)
        short = [event for event in events if isinstance(event, LoadedClip) and not event.long]
        start = time.perf_counter()
        features = self._features([_Waveform.of(w, clip.info) for clip in short for w in clip.waveforms], cancelled)
        channels = [[self._hold(next(features), silent) for silent in clip.silent] for clip in short]
        seconds = {"compute": time.perf_counter() - start}  # of all, counted with the first
        computed = {id(clip): clip_channels for clip, clip_channels in zip(short, channels, strict=True)}
        done: list[WorkerEvent] = []
        for event in events:
            if isinstance(event, LoadedClip) and id(event) in computed:
                done.append(join_channels(event, computed[id(event)], seconds))
                seconds = {}
            else:
                done.append(event)
        return done

    def compute(
        self, stream: Iterable[Event], pool: PoolMap, scratch: Path, cancelled: Cancelled
    ) -> Generator[Event, None, None]:
        """The workers have computed all but long clips, of which they compute the windows."""
        for event in stream:
            if isinstance(event, LoadedClip):
                reads = [pool.read(event.info, channel, cancelled) for channel in range(event.info.channels_out)]
                yield self._streamer.compute_long(event, reads, pool, pool, scratch)
            else:
                yield event

    def _features(self, waveforms: Sequence[_Waveform], cancelled: Cancelled) -> Iterator[FeatureChunk | ClipError]:
        """What is written of each waveform: [rows, *shape], or why nothing is."""
        results: dict[int, FeatureChunk | ClipError] = {}
        for batch in plan_batches([len(w.samples) for w in waveforms], self._batch_samples):
            if cancelled():
                results.update(dict.fromkeys(batch, ClipError("cancelled", "the run was stopped")))
                continue
            results.update(zip(batch, self._compute([waveforms[i] for i in batch]), strict=True))
        return (results[i] for i in range(len(waveforms)))

    @staticmethod
    def _hold(features: FeatureChunk | ClipError, silent: bool) -> HeldFeatures | ClipError:
        return features if isinstance(features, ClipError) else hold(features, silent)

    def _compute(self, waveforms: list[_Waveform]) -> list[FeatureChunk | ClipError]:
        """A batch; one clip at a time where memory does not suffice."""
        try:
            return self._forward(waveforms)
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
        if len(waveforms) > 1:
            return [y for w in waveforms for y in self._compute([w])]
        return [ClipError("out-of-memory", "too long for the memory of cpu")]

    def _forward(self, waveforms: list[_Waveform]) -> list[FeatureChunk | ClipError]:
        """Features of a batch: the filterbank of all at once, the rest of clips with the same number of frames."""
        frontend = self._extractor.frontend
        results: list[FeatureChunk | ClipError] = []
        with torch.inference_mode():
            x, lengths = pad([w.samples for w in waveforms])
            equal = all(len(w.samples) == len(waveforms[0].samples) for w in waveforms)  # then nothing is masked
            bands = frontend.compute_bands(x, None if equal else lengths)  # [B, F, N]
            first = 0
            clips = [self._clip_in(w) for w in waveforms]
            for (n, clip), group in groupby(zip(frontend.num_frames(lengths).tolist(), clips, strict=True)):
                after = first + sum(1 for _ in group)
                features = self._after_bands(bands[first:after, :, :n].contiguous(), clip)
                results += self._finish(features, waveforms[first:after])
                first = after
        return results

    def _clip_in(self, waveform: _Waveform) -> Inside | None:
        """The frames of the clip alone; None: it has no margins."""
        if waveform.length == len(waveform.samples):
            return None
        return inside(self._extractor, waveform.before, waveform.length)

    def _after_bands(self, bands: Tensor, clip: Inside | None) -> Tensor:
        """Compression and stack of clips of the same length; each clip by itself where a batch would round otherwise.

        Shape: [B, F, N] -> [B, N', C, F'].
        """
        frontend, extractor = self._extractor.frontend, self._extractor
        said = frontend.said_inside(clip)
        y = apart(lambda y: frontend.compress(y, None, *said), bands, not frontend.compresses_exactly)
        layers = extractor.layers if clip is None else partial(layers_within, extractor, clip=clip)
        y = apart(layers, y, len(extractor.stack) > 0)  # convolutions and activations round otherwise
        return y.permute(0, 3, 1, 2)

    def _finish(self, features: Tensor, waveforms: list[_Waveform]) -> list[FeatureChunk | ClipError]:
        """What is written of clips of as many frames; if one of them fails, it fails alone. Shape: [B, N, C, F]."""
        try:
            arrays = self._arrays.make(self._postprocessor.whole(features), largest_sample(waveforms[0].samples))
        except ClipError as e:
            if len(waveforms) == 1:
                return [e]
            return [y for i, w in enumerate(waveforms) for y in self._finish(features[i : i + 1], [w])]
        return list(zip(arrays, moments_of_each(arrays), strict=True))


class _Waveform(NamedTuple):
    """One channel of a clip with its margins: samples [T], those before the clip, and the clip's length."""

    samples: Tensor
    before: int
    length: int

    @classmethod
    def of(cls, samples: Tensor, info: ClipInfo) -> _Waveform:
        return cls(samples, info.margins.before, info.length)


def apart(apply: Callable[[Tensor], Tensor], x: Tensor, each: bool) -> Tensor:
    """A function of a batch, or of each of its clips by itself. Shape: [B, ...] -> [B, ...]."""
    return torch.cat([apply(x[i : i + 1]) for i in range(len(x))]) if each and len(x) > 1 else apply(x)
