"""Clips read from their files: waveforms at the rate of the configuration, or the reason why not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.edges import Edges
from hlfeat.audio.passes import SharedPasses
from hlfeat.audio.reader import Reader
from hlfeat.audio.resample import Resampler
from hlfeat.errors import OUT_OF_FILES, ClipError
from hlfeat.extraction.events import ClipInfo, FailedClip, LoadedClip, WorkerEvent
from hlfeat.extraction.options import Limits
from hlfeat.nn.device import out_of_memory

log = logging.getLogger("hlfeat")
_SILENCE_STEP = 1 << 14  # samples that are looked at together for one that is not 0

Cancelled = Callable[[], bool]


class ClipLoader:
    """Reads clips.

    Args:
        resampler: to the rate that is wanted.
        channels: the channel policy (see `Reader`).
        limits: when a clip is long.
        keep_truncated: use what is there of recordings that were cut short.
        edges: what is computed around clips; default: nothing.
    """

    def __init__(
        self,
        resampler: Resampler,
        channels: str | int,
        limits: Limits,
        keep_truncated: bool = False,
        edges: Edges | None = None,
    ) -> None:
        self.resampler, self.channels, self._limits = resampler, channels, limits
        self._keep_truncated, self._passes = keep_truncated, SharedPasses()
        self.edges = edges or Edges(resampler)

    def close(self) -> None:
        """Close the files that are open for further segments."""
        self._passes.close()

    def load_all(self, clips: Sequence[Clip], cancelled: Cancelled, resample: bool = True) -> list[WorkerEvent]:
        """Neighbouring clips. Segments of one file that follow one another share a pass over it."""
        events: list[WorkerEvent] = []
        for _, group in groupby(clips, lambda clip: (clip.source, clip.span, clip.row)):
            neighbours = list(group)
            with self._passes.hold(neighbours[0]) if neighbours[0].is_segment else nullcontext():
                events += [self.load(clip, cancelled, resample) for clip in neighbours]
        return events

    def shares_pass(self, clip: Clip) -> bool:
        """Whether segments of the clip's file share a pass, as far as is known."""
        return clip.is_segment and not self._passes.is_exact(clip)

    def load(self, clip: Clip, cancelled: Cancelled, resample: bool = True) -> LoadedClip | FailedClip:
        """One clip; of a long one, only its length. Without `resample`, waveforms stay at the file's rate, and without
        margins but those that are read.

        Whatever a reader or a file system raises is one clip's failure, not the run's.

        Raises OSError where no more files can be opened, which is no clip's fault.
        """
        try:
            return self._load(clip, cancelled, resample)
        except ClipError as e:
            return FailedClip(clip, e)
        except Exception as e:
            if out_of_memory(e):
                return FailedClip(clip, ClipError("out-of-memory", "too large to be held in memory"))
            if isinstance(e, OSError) and e.errno in OUT_OF_FILES:
                raise
            log.debug("%s", clip, exc_info=True)
            return FailedClip(clip, ClipError("unreadable", f"{type(e).__name__}: {e}"))

    def _load(self, clip: Clip, cancelled: Cancelled, resample: bool) -> LoadedClip:
        start = time.perf_counter()
        passes = self._passes if clip.is_segment else None
        with self._reader(clip, cancelled, passes) as reader:
            samples, blocks = self._read(reader)
        decoded = time.perf_counter()
        info = self._info(clip, reader, samples)
        if not blocks:
            return LoadedClip(info, seconds={"decode": decoded - start})
        whole = np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]  # [channels, before + T + after]
        silent = [is_silent(x[reader.before : reader.before + samples]) for x in whole]
        x = torch.from_numpy(whole)
        if resample:
            x = self.resampler(x, reader.sample_rate)
            x = self.edges.apply(x, reader.sample_rate, info.margins, info.length)
        waveforms = list(x.unbind())
        seconds = {"decode": decoded - start, "resample": time.perf_counter() - decoded}
        return LoadedClip(info, waveforms, silent, seconds)

    def _reader(self, clip: Clip, cancelled: Cancelled, passes: SharedPasses | None = None) -> Reader:
        around = self.edges.to_read if self.edges.reads_context else None
        return Reader(clip, self.channels, cancelled, self._keep_truncated, passes, around)

    def _info(self, clip: Clip, reader: Reader, samples: int) -> ClipInfo:
        old, new, _ = self.resampler.ratio(reader.sample_rate)
        size, modified = reader.stamp
        return ClipInfo(
            clip=clip,
            sample_rate=reader.sample_rate,
            file_channels=reader.file_channels,
            duration=samples / reader.sample_rate,
            size=size,  # from before its samples were read, so that a later change shows
            modified=modified,
            channels_out=reader.kept,
            length=-(-samples * new // old),
            decoder=reader.decoder,
            shortfall=reader.shortfall,
            overshoots=reader.overshoots,
            margins=self.edges.margins(reader, samples),
        )

    def _read(self, reader: Reader) -> tuple[int, list[np.ndarray]]:
        """The number of samples, and the samples in blocks, with those around the clip; without those of a long clip,
        which are only counted if the header does not say how many there are."""
        most = self._limits.long_samples * reader.sample_rate // self.resampler.rate
        if reader.samples is not None and reader.samples > most:
            return reader.samples, []
        blocks, samples = [], 0
        around = self.edges.to_read(reader.sample_rate, 0)[1] if self.edges.reads_context else 0  # most after it
        for block in reader.blocks():
            samples += block.shape[1]
            blocks.append(block)
            if samples > reader.before + most + around:
                blocks = []
        samples -= reader.before + reader.after
        return samples, blocks if samples <= most else []

    def channel_chunks(self, info: ClipInfo, channel: int, cancelled: Cancelled) -> Generator[Tensor, None, None]:
        """The samples of one channel of a long clip, and those around it, at the file's rate: [1, t] each.

        Raises ClipError where the clip turns out to be bad, or was changed since it was loaded.
        """
        clip = info.clip
        with self._reader(clip, cancelled) as reader:
            if reader.stamp != (info.size, info.modified):
                raise ClipError("unreadable", "the file was changed while it was read")
            for block in reader.blocks():
                yield torch.from_numpy(block[channel : channel + 1])


def is_silent(samples: np.ndarray) -> bool:
    """Whether all samples are 0; of sound, only the beginning is looked at. Shape: [T]."""
    return not any(samples[i : i + _SILENCE_STEP].any() for i in range(0, len(samples), _SILENCE_STEP))


class SilenceWatch:
    """Passes on the samples of one channel and notes whether all those of the clip are 0.

    Args:
        first, samples: of the clip; others are around it.
    """

    def __init__(self, chunks: Iterable[Tensor], first: int, samples: int) -> None:
        self._chunks, self._first, self._samples, self.silent = chunks, first, samples, True

    def __iter__(self) -> Iterator[Tensor]:
        position = 0
        for x in self._chunks:  # [1, t]
            clip = x[0, max(0, self._first - position) : max(0, self._first + self._samples - position)]
            self.silent = self.silent and is_silent(clip.numpy())
            position += x.shape[1]
            yield x
