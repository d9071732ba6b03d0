"""FeatureStore: the features of finished (or growing) directories, for training with torch."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from torch.utils.data import Dataset

from hlfeat.errors import OutputError
from hlfeat.storage.description import band_freqs, read_description_dict
from hlfeat.storage.formats import open_lookup
from hlfeat.storage.index import Index
from hlfeat.storage.times import Timing, timing_of

OPEN_SHARDS = 64  # mapped at once: each holds a file descriptor, of which a process may have a thousand


class FeatureStore(Dataset[tuple[str, np.ndarray]]):
    """The clips of feature directories, by id or by number: a map-style dataset of torch's.

    `store["a/b.wav"]` is the clip's features; `store[3]` and iteration give (id, features), in the order of the index.
    Shards are memory-mapped, and a clip's rows are copied out of the map: changing an array changes no file.

    A store can be pickled, and used after a fork; `hlfeat.collate` makes batches of its items. Clips that are added to
    a directory later are not seen.

    Args:
        folder: a feature directory.
        folders: more of them, whose clips follow in order; they must have the same channels, bands and frame rate.

    Shape: features [frames, channels, bands], or [vectors, dims] where they were pooled; float32 or float16.

    Raises:
        OutputError: not a feature directory, or a damaged one; directories that do not go together; an id twice.

    Attributes:
        folders: as given.
        description: what hlfeat.yaml of the first folder says, as plain data.
        frames: int64 [clips], the frames (or vectors) of each clip, in order.

    Example:
        >>> store = FeatureStore(features_dir)
        >>> len(store), store.ids()[0], store[0][1].shape
        (3, 'a.wav', (101, 2, 40))
        >>> store.read("a.wav", start=10, stop=20).shape
        (10, 2, 40)
        >>> batch = hlfeat.collate([store[0], store[1]])
        >>> batch.features.shape
        torch.Size([2, 101, 2, 40])
    """

    def __init__(self, folder: str | Path, *folders: str | Path) -> None:
        self.folders = tuple(map(Path, (folder, *folders)))
        self.description = read_description_dict(self.folders[0])
        _check_features(self.folders[0], self.description)
        for other in self.folders[1:]:
            _check_alike((self.folders[0], self.description), (other, read_description_dict(other)))
        self._index = Index(self.folders)
        self._lookup = lru_cache(OPEN_SHARDS)(open_lookup)

    @property
    def frames(self) -> np.ndarray:
        return self._index.frames

    @property
    def freqs(self) -> np.ndarray | None:
        """Frequencies of the bands in hertz, as hlfeat.yaml of the first folder says.

        None if it does not: bands have none (behind a projection, pooled over time), or an earlier version has written
        the folder.

        Shape: float64 [bands].
        """
        features = self.description.get("features") or {}
        freqs = band_freqs(features.get("freqs"), features.get("bands"))
        return None if freqs is None else np.array(freqs, dtype=np.float64)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and self._index.find(id_) is not None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for i in range(len(self)):
            yield self._index.id(i), self._rows(i, 0, None)

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> tuple[str, np.ndarray]: ...
    def __getitem__(self, key: str | SupportsIndex) -> np.ndarray | tuple[str, np.ndarray]:
        i = self._number(key)
        features = self._rows(i, 0, None)
        return features if isinstance(key, str) else (self._index.id(i), features)

    def read(self, key: str | SupportsIndex, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Some frames of a clip, without reading the others.

        Args:
            key: the id or the number of the clip.
            start, stop: the frames `start` to `stop` (not included); None for the end of the clip.

        Shape: [stop - start, channels, bands] or [stop - start, dims].

        Raises:
            KeyError: no clip has this id; the message names the nearest.
            IndexError: no clip has this number.
            ValueError: frames that the clip does not have.
            OutputError: the shard cannot be read, or does not have the clip's frames.
        """
        return self._rows(self._number(key), start, stop)

    def ids(self) -> list[str]:
        """All ids, in order."""
        return [self._index.id(i) for i in range(len(self))]

    def record(self, id_: str) -> dict[str, Any]:
        """The index line of a clip, with keys such as `path`, `duration` in seconds and `sample_rate` (docs/format.md).

        Raises KeyError for an unknown id, OutputError for an index that has changed since the store was opened.
        """
        return self._index.record(self._number(id_))

    def times(self, id_: str) -> np.ndarray:
        """Seconds from the clip's beginning to the centre of each of its frames (or windows).

        Those of a segment count from its start in the recording, which is `record(id_).get("start", 0.0)`.

        Raises KeyError for an unknown id; OutputError where an earlier version has not written enough.

        Shape: -> float64 [frames].
        """
        return self._timing.times(*self._rows_and_seconds(id_))

    def intervals(self, id_: str) -> np.ndarray:
        """Start and end, in seconds from the clip's beginning, of what each frame or pooled vector stands for.

        A frame: the moments that are nearer to its centre than to others'; a window: the seconds of `output.pool`, up
        to the end of the clip; a clip that was pooled as a whole: 0 to its duration.

        Raises as `times`.

        Shape: -> float64 [frames, 2].
        """
        return self._timing.intervals(*self._rows_and_seconds(id_))

    @cached_property
    def _timing(self) -> Timing:
        return timing_of(self.description, self.folders[0])

    def _rows_and_seconds(self, id_: str) -> tuple[int, float]:
        i = self._number(id_)
        return int(self._index.frames[i]), self._index.record(i)["duration"]

    def _number(self, key: str | SupportsIndex) -> int:
        """The number of a clip."""
        if not isinstance(key, str):
            return range(len(self))[operator.index(key)]
        number = self._index.find(key)
        if number is None:
            near = self._index.nearest(key)
            folders = ", ".join(map(str, self.folders))
            raise KeyError(f"no clip {key!r} in {folders}" + (f"; near it are {', '.join(near)}" if near else ""))
        return number

    def _rows(self, i: int, start: int, stop: int | None) -> np.ndarray:
        row, frames, path = self._index.row[i], self._index.frames[i], self._index.data[self._index.shard[i]]
        stop = frames if stop is None else stop
        if not 0 <= start <= stop <= frames:
            raise ValueError(
                f"expected 0 <= start <= stop <= the {frames} frames of {self._index.id(i)!r}, got {start} and {stop}"
            )
        clip = self._lookup(path)(self._index.id(i), row, frames)
        if len(clip) != frames:
            raise OutputError(f"{path}: damaged: shorter than its index says")
        return np.array(clip[start:stop])

    def __getstate__(self) -> dict[str, Any]:  # a worker process maps the shards itself
        return {k: v for k, v in self.__dict__.items() if k != "_lookup"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lookup=lru_cache(OPEN_SHARDS)(open_lookup))


def _check_features(folder: Path, description: dict[str, Any]) -> None:
    """Raises OutputError for a directory of pitch tracks."""
    if description.get("pitch"):
        raise OutputError(f"{folder}: holds pitch tracks, a .f0.csv for each clip, and no features")


# Keys of hlfeat.yaml, below `features`, that earlier versions did not write. Folders with and without go together.
_LATER = {"freqs", "sample_rate", "first_centre_samples", "window_seconds", "window_hop_seconds"}


def _shape_of(features: object) -> object:
    """What must be the same in all folders."""
    return {k: v for k, v in features.items() if k not in _LATER} if isinstance(features, dict) else features


def _timing_or_none(description: dict[str, Any], folder: Path) -> Timing | None:
    try:
        return timing_of(description, folder)
    except OutputError:
        return None


def _check_alike(*described: tuple[Path, dict[str, Any]]) -> None:
    """Raises OutputError if the features of directories have not the same shape and frame rate."""
    for folder, description in described:
        _check_features(folder, description)
    features = {folder: _shape_of(description.get("features")) for folder, description in described}
    first, *others = features.values()
    if any(other != first for other in others):
        shapes = "; ".join(f"{folder} has {shape}" for folder, shape in features.items())
        raise OutputError(f"expected features of the same shape: {shapes}")
    timings = {folder: _timing_or_none(description, folder) for folder, description in described}
    known = {folder: timing for folder, timing in timings.items() if timing is not None}
    if len(set(known.values())) > 1:
        seconds = "; ".join(f"{folder} from {t.first_centre_samples:g} samples" for folder, t in known.items())
        raise OutputError(f"expected frames at the same times: {seconds}")
