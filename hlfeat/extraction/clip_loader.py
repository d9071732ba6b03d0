"""ClipLoader: one clip's file to waveforms at the wanted rate, and Item, the clip on its way through a run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip, display_path
from hlfeat.audio.reader import Reader
from hlfeat.audio.resample import Resampler
from hlfeat.errors import OUT_OF_FILES, ClipError
from hlfeat.nn.device import out_of_memory
from hlfeat.statistics.moments import Moments

log = logging.getLogger("hlfeat")
LONG = 1 << 20  # samples (65 s at 16 kHz); longer clips are read while they are computed
PROBE = 1 << 14  # samples that are looked at together for one that is not 0


@dataclass
class Item:
    """A clip on its way: what its file says, and what has been made of it so far.

    `length` is its samples after resampling. `waveforms` ([T], one for each entry that it makes in the output) are
    empty for a clip that is too long to be held, and once `features` ([n, C, F] each, or why not) have been made.
    `moments` are those of the features; `silent` says of each entry whether its samples are all 0, which of a long clip
    is known once it has been read.
    """

    clip: Clip
    sample_rate: int
    file_channels: int
    duration: float  # seconds
    size: int  # of the file, bytes
    modified: int  # nanoseconds since 1970
    entries: int
    length: int
    waveforms: list[Tensor] = field(default_factory=list)
    features: list[np.ndarray | ClipError] = field(default_factory=list)
    moments: list[Moments | None] = field(default_factory=list)
    silent: list[bool] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # spent on it, by stage
    opens_shard: bool = False

    @property
    def long(self) -> bool:
        return not self.waveforms and not self.features

    @property
    def nbytes(self) -> int:
        return sum(w.nbytes for w in self.waveforms) + sum(y.nbytes for y in self.features if isinstance(y, np.ndarray))


Failure = tuple[Clip, ClipError]


class ClipLoader:
    """Reads clips: files to waveforms at the rate that is wanted.

    Args:
        resampler: to that rate.
        channels: the channel policy (see `decode`).

    Attributes:
        reading: a context that a clip is read in.
    """

    def __init__(self, resampler: Resampler, channels: str | int) -> None:
        self.resampler = resampler
        self.channels = channels
        self.reading: Callable[[Clip, str | int], AbstractContextManager[None]] = lambda *_: nullcontext()

    def __call__(self, clip: Clip, cancelled: Callable[[], bool], resample: bool = True) -> Item:
        """One clip, or of a long one what its header says. Without `resample`, waveforms stay at the file's rate.

        Raises ClipError, whatever a reader or a file system comes up with: that is one clip's failure, not the run's.
        But OSError where no more files can be opened, which is no clip's fault.
        """
        start = time.perf_counter()
        try:
            with self.reading(clip, self.channels), Reader(clip, self.channels, cancelled) as reader:
                info = os.stat(clip.path)  # before its samples, so that one that changes meanwhile is seen to have
                rate = reader.sample_rate
                samples, blocks = self._read(reader)
                channels = reader.file_channels, reader.kept
            decoded = time.perf_counter()
            old, new, _ = self.resampler.ratio(rate)
            item = Item(clip, rate, channels[0], samples / rate, info.st_size, info.st_mtime_ns, channels[1],
                        -(-samples * new // old), silent=[True] * channels[1])  # fmt: skip
            if blocks:
                whole = np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]
                item.silent = [_silent(x) for x in whole]
                x = torch.from_numpy(whole)
                item.waveforms = list(self.resampler(x, rate) if resample else x)
        except ClipError:
            raise
        except Exception as e:
            if out_of_memory(e):
                raise ClipError("out-of-memory", "too large to be held in memory") from e
            if isinstance(e, OSError) and e.errno in OUT_OF_FILES:
                raise
            log.debug("%s", display_path(clip), exc_info=True)
            raise ClipError("unreadable", f"{type(e).__name__}: {e}") from e
        item.seconds = {"decode": decoded - start, "resample": time.perf_counter() - decoded}
        return item

    def _read(self, reader: Reader) -> tuple[int, list[np.ndarray]]:
        """Samples of the clip, and themselves; a long clip's are left for later, and only counted if need be."""
        most = LONG * reader.sample_rate // self.resampler.rate
        if reader.samples is not None and reader.samples > most:
            return reader.samples, []
        blocks, count = [], 0
        for block in reader.blocks():
            count += block.shape[1]
            blocks.append(block)
            if count > most:
                blocks = []
        return count, blocks if count <= most else []

    def pieces(self, item: Item, entry: int, cancelled: Callable[[], bool]) -> Iterator[Tensor]:
        """The samples of one entry of a long clip, not resampled: [1, t] each."""
        clip = item.clip
        with self.reading(clip, self.channels), Reader(clip, self.channels, cancelled) as reader:
            info = os.stat(clip.path)
            if (info.st_size, info.st_mtime_ns) != (item.size, item.modified):
                raise ClipError("unreadable", "the file was changed while it was read")
            for block in reader.blocks():
                item.silent[entry] = item.silent[entry] and _silent(block[entry])
                yield torch.from_numpy(block[entry : entry + 1])


def _silent(samples: np.ndarray) -> bool:
    """Whether all are 0; of sound, only the beginning is looked at."""
    return not any(samples[i : i + PROBE].any() for i in range(0, len(samples), PROBE))
