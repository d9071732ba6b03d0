"""How to run, as opposed to what to compute: Options are the user's, Limits are for tests and benchmarks."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hlfeat.errors import UsageError
from hlfeat.partition import WHOLE, Part


def default_workers() -> int:
    """As many as this process has cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what to compute: no option changes a clip's features beyond rounding.

    With `tf32` that is the rounding of TF32, otherwise of float32.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps"; several, separated by commas, get a
            process each.
        batch_seconds: audio in a batch on a GPU, with padding, in seconds; "auto": as much as its memory allows.
        workers: processes (on other systems than Linux: threads) that decode and, on a CPU, compute.
        on_error: "skip" a clip that cannot be used, or "stop" the run.
        max_failures: stop when more clips than this fail; None: never.
        overwrite: remove what earlier runs wrote to the output directory.
        retry_failed: try again what failed in earlier runs; missing files are tried once they are there.
        update: compute clips again whose files have changed, and take over metadata that has changed.
        part: of the clips.
        parts: do all of so many parts of the clips, one after the other; "auto": as many as the folder is in already.
        on: "ray": have workers of a Ray cluster do the parts, several at once. Without `parts` they are as many as the
            folder is in already, or, for a new one, as the cluster can do at once. `workers` are CPUs of each then.
        quiet: show no progress.
        weights, stats: files of trained weights, and of statistics to normalise by.
        on_truncated: what to do with a recording that was cut short or never finished: "fail", or "keep" what is there.
        retries: how often a request to a URL is made again, if its connection breaks or its server is busy.
        tf32: let an NVIDIA GPU multiply in TF32, which keeps 10 bits of float32's 23; resampling never does.

    Raises:
        UsageError: a value that is impossible, with the name of the option.

    >>> Options(workers=4, device="cuda:0,cuda:1").on_error
    'skip'
    >>> Options(workers=0)
    Traceback (most recent call last):
    ...
    hlfeat.errors.UsageError: workers: expected a whole number from 1, got 0
    """

    device: str = "auto"
    batch_seconds: float | Literal["auto"] = "auto"
    workers: int = field(default_factory=default_workers)
    on_error: str = "skip"
    max_failures: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    update: bool = False
    part: Part = WHOLE
    quiet: bool = False
    weights: Path | None = None
    stats: Path | None = None
    on_truncated: str = "fail"
    tf32: bool = False
    parts: int | Literal["auto"] | None = None
    on: Literal["ray"] | None = None
    retries: int = 5

    @property
    def does_parts(self) -> bool:
        """Whether the run does all parts, each by itself."""
        return self.parts is not None or self.on is not None

    @property
    def devices(self) -> list[str]:
        """Each device by itself."""
        return self.device.split(",")

    def batch_samples(self, sample_rate: int) -> int | None:
        """Samples in a batch on a GPU, with padding; None: as many as its memory allows."""
        return None if self.batch_seconds == "auto" else max(1, int(self.batch_seconds * sample_rate))

    def __post_init__(self) -> None:
        _check("workers", self.workers, _is_whole(self.workers, 1), "a whole number from 1")
        seconds = self.batch_seconds
        positive = isinstance(seconds, int | float) and math.isfinite(seconds) and seconds > 0
        _check("batch_seconds", seconds, positive or seconds == "auto", "auto or seconds above 0")
        _check("on_error", self.on_error, self.on_error in ("skip", "stop"), "skip or stop")
        _check("on_truncated", self.on_truncated, self.on_truncated in ("fail", "keep"), "fail or keep")
        most = self.max_failures
        _check("max_failures", most, most is None or _is_whole(most, 0), "a whole number from 0, or None")
        named = isinstance(self.device, str) and all(self.devices)
        _check("device", self.device, named, "names separated by commas")
        _check("retries", self.retries, _is_whole(self.retries, 0), "a whole number from 0")
        _check("tf32", self.tf32, isinstance(self.tf32, bool), "True or False")
        _check("part", self.part, isinstance(self.part, Part), "a Part")
        parts = self.parts
        _check("parts", parts, parts in (None, "auto") or _is_whole(parts, 1), "a whole number from 1, or auto")
        _check("on", self.on, self.on in (None, "ray"), "ray")
        _check("part", str(self.part), self.part == WHOLE or not self.does_parts, "none where the run does all parts")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check(name: str, value: object, valid: bool, expected: str) -> None:
    if not valid:
        raise UsageError(f"{name}: expected {expected}, got {value!r}")


@dataclass(frozen=True)
class Limits:
    """Sizes that trade memory for speed. None of them changes a clip's features beyond rounding.

    Attributes:
        long_samples: longer clips (65 s at 16 kHz) are read while they are computed, window by window.
        window_samples: in a window of the frontend or of the resampler, about.
        window_frames: in a window of the stack, about.
        look_ahead_bytes: of decoded audio and features that wait to be written, beyond the clips in work.
        chunk_bytes, chunk_clips: of short files that a worker takes at once; a few seconds of work.
        fetches: clips from elsewhere, such as from a URL, whose bytes are fetched at once or wait.
        cpu_batch_samples: that go through the filterbank at once on a CPU.
        block_samples, block_bytes, block_clips: on a device, clips are sorted by length in blocks of about so many
            samples (35 minutes at 16 kHz; at least a batch), bytes of samples as they were read, and clips; two blocks
            are held at once.
        long_reads: long clips that are read at once for a device.
        long_bytes: of samples of long clips, in all, that wait for it.
    """

    long_samples: int = 1 << 20
    window_samples: int = 1 << 19
    window_frames: int = 1 << 11
    look_ahead_bytes: int = 128 << 20
    chunk_bytes: int = 1 << 19
    chunk_clips: int = 32
    fetches: int = 16
    cpu_batch_samples: int = 3 << 17
    block_samples: int = 1 << 25
    block_bytes: int = 512 << 20
    block_clips: int = 1 << 13
    long_reads: int = 4
    long_bytes: int = 64 << 20


DEFAULT_LIMITS = Limits()
