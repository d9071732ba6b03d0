"""How much of a run is held in memory, or computed, at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes that trade memory for speed. None of them changes a clip's features beyond rounding.

    Attributes:
        long_samples: longer clips (65 s at 16 kHz) are read while they are computed, window by window.
        window_samples: in a window of the frontend or of the resampler, about.
        window_frames: in a window of the stack, about.
        look_ahead_bytes: of decoded audio and features that wait to be written, beyond the clips in work.
        chunk_bytes, chunk_clips: of short files that a thread takes at once; a few seconds of work.
        cpu_batch_samples: that go through the filterbank at once on a CPU.
        block_batches: on a device, clips are sorted by length in blocks of about this many batches.
    """

    long_samples: int = 1 << 20
    window_samples: int = 1 << 19
    window_frames: int = 1 << 11
    look_ahead_bytes: int = 128 << 20
    chunk_bytes: int = 1 << 19
    chunk_clips: int = 32
    cpu_batch_samples: int = 1 << 18
    block_batches: int = 8


DEFAULT_LIMITS = Limits()
