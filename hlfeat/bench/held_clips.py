"""Clips that have been read before: computing is measured without reading."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace

from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError, UsageError
from hlfeat.extraction.clip_loader import Cancelled, ClipLoader
from hlfeat.extraction.events import ClipInfo, FailedClip, LoadedClip
from hlfeat.extraction.options import DEFAULT_LIMITS

HELD_BYTES = 1 << 30  # decoded audio of the clips that are measured


@dataclass
class Held:
    """Clips that have been read: as the engine gets them, and the samples of the channels of long ones."""

    clips: list[Clip] = field(default_factory=list)
    loaded: dict[str, LoadedClip] = field(default_factory=dict)
    chunks: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    failed: int = 0

    @property
    def seconds(self) -> float:
        """Of audio, each channel that is kept counted."""
        infos = (loaded.info for loaded in self.loaded.values())
        return sum(info.duration * info.channels_out for info in infos)


class MemoryLoader(ClipLoader):
    """A loader of clips that have been read before."""

    def __init__(self, loader: ClipLoader, held: Held) -> None:
        super().__init__(loader.resampler, loader.channels, DEFAULT_LIMITS, edges=loader.edges)
        self.held = held

    def load(self, clip: Clip, cancelled: Cancelled, resample: bool = True) -> LoadedClip | FailedClip:
        return replace(self.held.loaded[clip.id], seconds={})

    def channel_chunks(self, info: ClipInfo, channel: int, cancelled: Cancelled) -> Generator[Tensor, None, None]:
        yield from self.held.chunks[info.clip.id, channel]


def hold(loader: ClipLoader, clips: Iterable[Clip], resample: bool, most: int = HELD_BYTES) -> Held:
    """Read clips until so many bytes are held; those that cannot be read are left out.

    Args:
        resample: whether they are resampled too, as an engine on a CPU wants them; others resample themselves.
    """
    held, size = Held(), 0
    for clip in clips:
        loaded = loader.load(clip, lambda: False, resample)
        try:
            if isinstance(loaded, FailedClip):
                raise loaded.error
            channels = range(loaded.info.channels_out if loaded.long else 0)
            chunks = {(clip.id, c): list(loader.channel_chunks(loaded.info, c, lambda: False)) for c in channels}
        except ClipError:
            held.failed += 1
            continue
        held.clips.append(clip)
        held.loaded[clip.id] = loaded
        held.chunks |= chunks
        size += loaded.nbytes + sum(x.nbytes for channel in chunks.values() for x in channel)
        if size >= most:
            break
    if not held.clips:
        raise UsageError("expected clips that can be read, found none")
    return held
