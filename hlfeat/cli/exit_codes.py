"""Exit codes of the command, and what its help says of them."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit status says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SOME_CLIPS_FAILED = 3
    INTERRUPTED = 130


# What most commands can end with; a command that has more to say replaces or adds lines.
EXIT_STATUS = {
    Exit.DONE: "done",
    Exit.FAILED: "failed",
    Exit.USAGE: "usage or configuration error",
    Exit.INTERRUPTED: "interrupted",
}
EXIT_STATUS_OF_CLIPS = {
    **EXIT_STATUS,
    Exit.SOME_CLIPS_FAILED: "done, but some clips failed",
}
