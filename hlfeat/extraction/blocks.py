"""Events that a device works on together, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hlfeat.extraction.events import Event, LoadedClip
from hlfeat.extraction.finishing import Finished
from hlfeat.extraction.options import Limits
from hlfeat.extraction.read_ahead import ClipRead


@dataclass
class Block:
    """Events, in order, whose features are computed together.

    Args:
        limits: what a block may hold.
        batch_samples: of a batch: a block holds one at least.
        long_clips: at most.

    Attributes:
        events: with no ShardBreak but the first: batches do not cross a shard's end.
        finished: waits for what is written of a clip that was launched, by its place and the channel.
        reads: of long clips, by their place.
        seconds: that the host spent on launching.
    """

    limits: Limits
    batch_samples: int
    long_clips: int
    events: deque[Event] = field(default_factory=deque)
    finished: dict[tuple[int, int], Callable[[], Finished]] = field(default_factory=dict)
    reads: dict[int, list[ClipRead]] = field(default_factory=dict)
    seconds: float = 0.0
    _samples: int = 0
    _bytes: int = 0

    def add(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, LoadedClip) and not event.long:
            self._samples += event.info.length * event.info.channels_out
            self._bytes += event.nbytes

    @property
    def fill(self) -> float:
        """How much it holds; from 1 on it is full."""
        return max(
            self._samples / max(self.limits.block_samples, self.batch_samples),
            self._bytes / self.limits.block_bytes,
            len(self.events) / self.limits.block_clips,
            len(self.reads) / self.long_clips,
        )
