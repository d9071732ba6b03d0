"""Where shards end: by the clips alone, never by timing, so that every run of the same clips writes the same shards."""

from __future__ import annotations


class ShardPlan:
    """Decides for each clip whether a new shard begins with it.

    Args:
        max_clips, max_bytes: of a shard; None for any number.
        frame_bytes: of one frame of features.

    >>> plan = ShardPlan(max_clips=2, max_bytes=None, frame_bytes=4)
    >>> [plan.opens(clips=1, frames=100) for _ in range(5)]
    [False, False, True, False, True]
    """

    def __init__(self, max_clips: int | None, max_bytes: int | None, frame_bytes: int) -> None:
        self._max_clips, self._max_bytes, self._frame_bytes = max_clips, max_bytes, frame_bytes
        self._clips = self._bytes = 0  # of the open shard

    def opens(self, clips: int, frames: int) -> bool:
        """Whether the next `clips`, of `frames` each, do not fit into the open shard, and begin a new one."""
        size = clips * frames * self._frame_bytes
        full = (self._max_clips is not None and self._clips + clips > self._max_clips) or (
            self._max_bytes is not None and self._bytes + size > self._max_bytes
        )
        opens = full and self._clips > 0
        if opens:
            self.begin()
        self._clips += clips
        self._bytes += size
        return opens

    def begin(self) -> None:
        """Begin a new shard for another reason."""
        self._clips = self._bytes = 0
