"""The statistics file beside each shard: moments of its features, and its silent and constant clips."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hlfeat.errors import OutputError
from hlfeat.files import json_bytes, json_text
from hlfeat.statistics.fields import arrays_of, check_kind, check_not_negative, count_of
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.statistics.moments_sum import MomentsSum

KIND = "shard statistics"  # the value of the key `hlfeat`
ARRAYS = ("mean", "m2", "min", "max")


class ShardStatistics:
    """Statistics of the clips of one shard, in order.

    Attributes:
        clips: the number of clips.
        silent: ids of clips whose samples are all 0.
        constant: ids of clips with two frames or more, all of them the same.
    """

    def __init__(
        self, moments: Moments, clips: int = 0, silent: Iterable[str] = (), constant: Iterable[str] = ()
    ) -> None:
        self._sum, self.clips = MomentsSum(moments), clips
        self.silent, self.constant = list(silent), list(constant)

    @property
    def moments(self) -> Moments:
        """Of all frames, as they were written."""
        return self._sum.total

    @classmethod
    def of(cls, *shape: int) -> ShardStatistics:
        """Statistics of no clips yet, whose frames will have this shape."""
        return cls(no_moments(*shape))

    def add(self, id_: str, moments: Moments, silent: bool) -> None:
        """Add a clip."""
        self._sum.add(moments)
        self.clips += 1
        if silent:
            self.silent.append(id_)
        if moments.constant:
            self.constant.append(id_)

    def dump(self) -> bytes:
        """As JSON, in which every number reads back to the bit."""
        moments = self.moments
        arrays = {name: getattr(moments, name).tolist() for name in ARRAYS}
        ids = {"silent": self.silent, "constant": self.constant}
        fields = {"hlfeat": KIND, "clips": self.clips, "frames": moments.frames, **arrays, **ids}
        return json_bytes(json_text(fields) + "\n")


def read_shard_statistics(path: Path, *shape: int) -> ShardStatistics | None:
    """Read what `ShardStatistics.dump` made of frames of this shape.

    Returns:
        None if there is no such file: earlier versions wrote none.

    Raises:
        OutputError: the file cannot be read, or is damaged.
    """
    try:
        return _parse(json.loads(path.read_bytes()), shape)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise OutputError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise OutputError(f"{path}: damaged: {e}") from e


def _parse(contents: Any, shape: tuple[int, ...]) -> ShardStatistics:
    fields = check_kind(contents, KIND)
    clips, frames = count_of(fields, "clips", 0), count_of(fields, "frames", 0)
    for key in ("silent", "constant"):
        if not isinstance(fields.get(key), list) or not all(isinstance(id_, str) for id_ in fields[key]):
            raise ValueError(f"{key}: expected a list of ids")
    arrays = arrays_of(fields, ARRAYS, shape, finite=frames > 0)  # of no frames, the minimum is infinite
    check_not_negative("m2", arrays["m2"])
    return ShardStatistics(Moments(frames, **arrays), clips, fields["silent"], fields["constant"])
