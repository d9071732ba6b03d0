"""Where shards end."""

from __future__ import annotations


class ShardPlan:
    """Where shards end: by the clips alone, never by timing.

    Args:
        most_clips, most_bytes: of a shard; None for any number.
        frame_bytes: of one frame of features.
    """

    def __init__(self, most_clips: int | None, most_bytes: int | None, frame_bytes: int) -> None:
        self._most_clips, self._most_bytes, self._frame_bytes = most_clips, most_bytes, frame_bytes
        self._planned_clips = self._planned_bytes = 0

    def opens(self, clips: int, frames: int) -> bool:
        """Whether the next clips, `frames` each, do not fit in and a new shard begins with them."""
        size = clips * frames * self._frame_bytes
        full = (self._most_clips is not None and self._planned_clips + clips > self._most_clips) or (
            self._most_bytes is not None and self._planned_bytes + size > self._most_bytes
        )
        opens = full and self._planned_clips > 0
        if opens:
            self.begin()
        self._planned_clips += clips
        self._planned_bytes += size
        return opens

    def begin(self) -> None:
        """A new shard begins for another reason."""
        self._planned_clips = self._planned_bytes = 0
