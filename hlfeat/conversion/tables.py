"""What tables have in common: columns, and the rows of a clip.

A row is a pooled vector, a frame, or (in formats that have nested lists) a clip with all its frames. `start_s` and
`end_s` are seconds of the recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hlfeat.conversion.source import Source, SourceClip
from hlfeat.conversion.target import Conversion, Export, cast
from hlfeat.errors import UsageError
from hlfeat.storage.description import FeatureShape
from hlfeat.storage.metadata import column_names
from hlfeat.storage.times import timing_of

FIXED = ("id", "start_s", "end_s")
FEATURES = "features"
_DIGITS = 9  # of seconds after the point: nanoseconds; sums of seconds have others from rounding


class ClipRows(NamedTuple):
    """The rows of a clip, or some of them.

    Attributes:
        id: of the clip.
        start_s, end_s: of each row, in seconds of the recording.
        meta: columns of the manifest.
        features: of each row.

    Shape: start_s, end_s [rows], features [rows, dims]; [1] and [frames, dims] where a row is a clip.
    """

    id: str
    start_s: np.ndarray
    end_s: np.ndarray
    meta: Mapping[str, Any]
    features: np.ndarray


class Table(Export):
    """A table in files, `part-00000...`, whose rows are vectors, frames or clips.

    Attributes:
        nested: whether a row can be a clip with all its frames.
        features: what the features look like.
        by_clip: whether a row is a clip with all its frames.
        columns: of metadata: the name in the manifest, and that in the table.
    """

    nested: ClassVar[bool]

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        self.features = conversion.source.description.features
        self.by_clip = self.features.pool is None and not conversion.identity.frames
        self._timing = timing_of(conversion.source.data, conversion.source.folder)
        self.columns = column_names(conversion.plan.columns, self.reserved())

    @classmethod
    def check(cls, source: Source, dtype: np.dtype[Any] | None, frames: bool) -> np.dtype[Any]:
        pool = source.description.features.pool
        if pool is not None and frames:
            raise UsageError(f"frames: expected with frames, {source.folder} has vectors pooled over time ({pool})")
        if pool is None and not frames and not cls.nested:
            raise UsageError(
                f"{source.folder}: expected vectors pooled over time (a row of this format has no room for all frames "
                "of a clip)",
                remedy="frames",
            )
        return dtype or source.dtype

    def reserved(self) -> Iterable[str]:
        """Names of columns that metadata cannot have."""
        return (*FIXED, FEATURES)

    def rows(self, clip: SourceClip) -> Iterator[ClipRows]:
        """The vectors or frames of a clip, some at a time."""
        conversion, entry = self.conversion, clip.entry
        intervals = self._timing.intervals(entry.frames, entry.duration)
        intervals = np.round(clip.start + intervals, _DIGITS)
        first = 0
        for chunk in clip.chunks():
            y = cast(clip, chunk, conversion.dtype).reshape(len(chunk), conversion.dims)
            start_s, end_s = intervals[first : first + len(y)].T
            yield ClipRows(entry.id, start_s, end_s, clip.meta, y)
            first += len(y)

    def row_of_clip(self, clip: SourceClip) -> ClipRows:
        """All frames of a clip, which are one row."""
        conversion, entry = self.conversion, clip.entry
        y = cast(clip, clip.whole(), conversion.dtype).reshape(entry.frames, conversion.dims)
        start_s, end_s = np.round([[clip.start], [clip.start + entry.duration]], _DIGITS)
        return ClipRows(entry.id, start_s, end_s, clip.meta, y)


def value_names(features: FeatureShape) -> list[str]:
    """Names of the values of a row: `c0_b12` is band 12 of channel 0; mean and deviation have them in front.

    >>> value_names(FeatureShape(channels=1, bands=2, pool="mean+std", dims=4))
    ['mean_c0_b0', 'mean_c0_b1', 'std_c0_b0', 'std_c0_b1']
    """
    values = [f"c{c}_b{b}" for c in range(features.channels) for b in range(features.bands)]
    return values if features.pool != "mean+std" else [f"{of}_{name}" for of in ("mean", "std") for name in values]
