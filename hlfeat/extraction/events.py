"""What flows through a run, in input order: clips as they are read, computed or failed, and the ends of shards.

    read: LoadedClip | FailedClip  ->  marked: also ShardBreak  ->  computed: ComputedClip | FailedClip | ShardBreak

A clip that is too long to be held stays a LoadedClip, without samples; it is computed while it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.edges import NO_MARGINS, Margins
from hlfeat.audio.reader import Shortfall
from hlfeat.errors import ClipError
from hlfeat.statistics.moments import Moments

FeatureChunk = tuple[np.ndarray, Moments]  # rows [n, *shape] as they are written, and their moments


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip once its header, or all of it, has been read.

    Attributes:
        clip: the input.
        sample_rate: of the file, in Hz.
        file_channels: of the file; channels_out: of these, what the channel policy keeps.
        duration: in seconds.
        size: of the file, in bytes.
        modified: when the file last changed, in nanoseconds since 1970; None of a URL whose server does not say.
        length: in samples after resampling, without margins.
        margins: what is computed around it, in samples after resampling.
        decoder: what read the file, if it was not libsndfile.
        shortfall: what is missing of a recording that was cut short and is used nevertheless.
        overshoots: whether it is a segment that ends a little after its file.
    """

    clip: Clip
    sample_rate: int
    file_channels: int
    duration: float
    size: int
    modified: int | None
    channels_out: int
    length: int
    decoder: str | None = None
    shortfall: Shortfall | None = None
    overshoots: bool = False
    margins: Margins = NO_MARGINS

    @property
    def samples(self) -> int:
        """Of the file."""
        return round(self.duration * self.sample_rate)

    @property
    def extended_length(self) -> int:
        """In samples after resampling, with margins."""
        return self.margins.before + self.length + self.margins.after


@dataclass(frozen=True)
class LoadedClip:
    """A clip that has been read.

    Attributes:
        waveforms: [T] of each channel, with margins if they are resampled, else with what is read around a segment;
            empty for a long clip, which is read again while it is computed.
        silent: whether all samples of the clip are 0, of each channel; of a long clip this is not yet known.
        seconds: spent on the clip so far, by stage.
    """

    info: ClipInfo
    waveforms: Sequence[Tensor] = ()
    silent: Sequence[bool] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def long(self) -> bool:
        """Whether the clip is too long to be held."""
        return not self.waveforms

    @property
    def nbytes(self) -> int:
        return sum(w.nbytes for w in self.waveforms)


class ChannelFeatures(Protocol):
    """The features of one channel of a clip, to be iterated over once; then `silent` says whether it was silence."""

    @property
    def silent(self) -> bool: ...

    def __iter__(self) -> Iterator[FeatureChunk]: ...


@dataclass(frozen=True)
class HeldFeatures:
    """The features of one channel in memory.

    Attributes:
        features: as they are written.
        crc32: of the features' bytes, if it was computed beside them: the process that writes has enough to do.

    Shape: features [rows, *shape].
    """

    features: np.ndarray
    moments: Moments
    silent: bool
    crc32: int | None = None

    def __iter__(self) -> Iterator[FeatureChunk]:
        yield self.features, self.moments


@dataclass(frozen=True)
class ComputedClip:
    """A clip with the features of each of its channels. Those of a long clip are computed while they are iterated
    over, which may raise ClipError."""

    info: ClipInfo
    channels: Sequence[ChannelFeatures]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(y.features.nbytes for y in self.channels if isinstance(y, HeldFeatures))


@dataclass(frozen=True)
class FailedClip:
    """A clip that cannot be used; `info` is None if it could not even be read."""

    clip: Clip
    error: ClipError
    info: ClipInfo | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    nbytes = 0


@dataclass(frozen=True)
class ShardBreak:
    """The shard ends here: the next clip does not fit in. Batches do not cross it."""


WorkerEvent = LoadedClip | ComputedClip | FailedClip
Event = LoadedClip | ComputedClip | FailedClip | ShardBreak
