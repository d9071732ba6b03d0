"""`convert`: one loop over the clips of a feature directory, whose features a target writes in another format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from hlfeat.config.output import OutputConfig
from hlfeat.conversion.identity import Identity
from hlfeat.conversion.plan import Sizes, make_plan
from hlfeat.conversion.source import Source
from hlfeat.conversion.target import Conversion, Target
from hlfeat.conversion.targets import TARGETS
from hlfeat.errors import InterruptedRunError, UsageError
from hlfeat.files import disk_error


class Progress(Protocol):
    """Counts clips."""

    def add(self, clips: int, seconds: float) -> None:
        """Count clips that are done, and the seconds of audio that they are of."""

    def close(self) -> None:
        """Show what is left."""


class _NoProgress:
    def add(self, clips: int, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Request:
    """What to convert to.

    Attributes:
        format: a name in TARGETS; None: that of the source.
        dtype: of the features; None: that of the source.
        shard_size: as `output.shard_size` of the configuration; None: that of the source.
        frames: in tables, a row for each frame.
    """

    format: str | None = None
    dtype: str | None = None
    shard_size: int | str | None = None
    frames: bool = False


@dataclass(frozen=True)
class Hooks:
    """What the caller of a conversion is asked and told.

    Attributes:
        stopped: called for each clip; when it returns True, the conversion ends with InterruptedRunError.
        finished: called with the path of each file that is complete.
        progress: makes the object that counts finished clips, of a number of clips.
    """

    stopped: Callable[[], bool] = lambda: False
    finished: Callable[[Path], None] = lambda path: None
    progress: Callable[[int], Progress] = lambda total: _NoProgress()


@dataclass(frozen=True)
class Converted:
    """What a conversion has done.

    Attributes:
        clips, rows: of the whole result.
        seconds: of audio that these are of.
        failed: clips whose features the dtype cannot hold.
        new: whether anything was left to do.
        format: a name in TARGETS.
    """

    clips: int
    rows: int
    seconds: float
    failed: int
    new: bool
    format: str


def convert(folder: Path, out: Path, request: Request, hooks: Hooks = Hooks()) -> Converted:
    """Write the features of a finished directory to a folder, in another format; continues an interrupted conversion.

    Raises:
        UsageError: `folder` holds no features, `out` holds something else, or the format cannot hold these features.
        OutputError: the source is not complete or damaged, or the folder cannot be written.
        InterruptedRunError: `stopped` returned True.
    """
    if out.exists() and folder.exists() and os.path.samefile(out, folder):
        raise UsageError(f"{out}: expected another folder than that of the features")
    source = Source(folder)
    output = OutputConfig.model_validate(source.description.config["output"])
    name = request.format or output.format
    kind = TARGETS[name]
    dtype = kind.check(source, None if request.dtype is None else np.dtype(request.dtype), request.frames)
    size = request.shard_size or output.shard_size
    plan = make_plan(source, Sizes.of(size, dtype, source.shape))
    identity = Identity(source.digest(), name, dtype.name, size, request.frames)
    target = kind(Conversion(source, plan, out, identity, dtype))
    with target:
        try:
            return _run(target, hooks)
        except OSError as e:
            raise disk_error(e, out) from e


def _run(target: Target, hooks: Hooks) -> Converted:
    """The conversion in a folder that is locked."""
    plan = target.conversion.plan
    new = target.begin()
    if not new:
        return Converted(plan.total, plan.frames, plan.seconds, target.failed, new, target.conversion.identity.format)
    clips, progress = target.conversion.source.clips(), hooks.progress(plan.total)
    try:
        for number, count in zip(plan.numbers, plan.clips, strict=True):
            of_shard = islice(clips, count)
            if target.is_finished(number):
                target.skip(number, of_shard)
                progress.add(count, 0.0)
                continue
            with target.open(number) as shard:
                for clip in of_shard:
                    if hooks.stopped():
                        raise InterruptedRunError
                    if target.holds(clip):
                        shard.add(clip)
                    progress.add(1, clip.entry.duration)
                for path in shard.commit():
                    hooks.finished(path)
    finally:
        clips.close()
        progress.close()
    for path in target.finish():
        hooks.finished(path)
    return Converted(target.clips, plan.frames, plan.seconds, target.failed, new, target.conversion.identity.format)
