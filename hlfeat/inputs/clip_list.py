"""The ordered list of clips that the inputs of a run stand for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hlfeat.audio.clip import Clip


@dataclass
class Inputs:
    """All clips of a run, in order, and how many files of folders were passed over as no audio."""

    clips: list[Clip] = field(default_factory=list)
    ignored: int = 0


def add_clips(inputs: Inputs, found: Iterable[Clip | None]) -> None:
    for clip in found:
        if clip is None:
            inputs.ignored += 1
        else:
            inputs.clips.append(clip)
