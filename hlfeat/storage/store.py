"""FeatureStore: the features of finished (or growing) directories, for training with torch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
from torch.utils.data import Dataset

from hlfeat.errors import OutputError
from hlfeat.storage.clip_table import group_name, group_names, to_pandas
from hlfeat.storage.description import band_freqs, read_description_dict
from hlfeat.storage.formats import is_copied
from hlfeat.storage.index import Index
from hlfeat.storage.metadata import meta_of
from hlfeat.storage.open_shards import OpenShards
from hlfeat.storage.place import open_place, path_or_url, shown_folder
from hlfeat.storage.selection import Selection
from hlfeat.storage.split import assign_groups
from hlfeat.storage.store_checks import check_alike, dtype_of, row_shape_of
from hlfeat.storage.times import Timing, timing_of
from hlfeat.text import count, duration

if TYPE_CHECKING:
    import pandas

AT_ONCE = 16  # clips of a batch that are read from URLs
Key = str | SupportsIndex


class Ids(list[str]):
    """A list of ids. It can be called, because `ids` of a store was a method in earlier versions."""

    def __call__(self) -> Ids:
        return self


class FeatureStore(Dataset[tuple[str, np.ndarray]]):
    """The clips of feature directories, by id or by number: a map-style dataset of torch's.

    `store["a/b.wav"]` is the clip's features; `store[3]` and iteration give (id, features), in the order of the index.
    `store[10:20]` is a store of these clips, which reads nothing before it is asked, and so are the parts of `split`.
    Shards are memory-mapped, and a clip's rows are copied out of the map: changing an array changes no file.

    Of a directory at a URL the index is copied here, and each read of an `npy` shard is a request; a `pt` shard is
    copied as a whole.

    A store can be pickled, and used after a fork; `hlfeat.collate` makes batches of its items. Clips that are added to
    a directory later are not seen.

    Args:
        folder: a feature directory, or the URL of one: s3://, gs://, hf://, or https:// if the server lists folders.
        folders: more of them, whose clips follow in order; they must have the same channels, bands and frame rate.

    Shape: features [frames, channels, bands], or [vectors, dims] where they were pooled; float32 or float16.

    Raises:
        OutputError: not a feature directory, a damaged one, or one that cannot be read; directories that do not go
            together; an id twice.
        UsageError: a URL that cannot be read, or what is needed for that is not installed.

    Attributes:
        folders: paths, and URLs as text.
        description: what hlfeat.yaml of the first folder says, as plain data.
        ids: list of str, in order; made anew each time.
        frames: int64 [clips], the frames (or vectors) of each clip, in order.
        shape: of a frame: (channels, bands), or (dims,) where features were pooled.
        dtype: numpy's, of the features; of folders that differ the wider.
        freqs: float64 [bands], hertz; None where bands have no frequencies.

    Example:
        >>> store = FeatureStore(features_dir)
        >>> len(store), store.ids[0], store[0][1].shape
        (3, 'a.wav', (101, 2, 40))
        >>> store.shape, store.dtype
        ((2, 40), dtype('float32'))
        >>> store.read("a.wav", start=10, stop=20).shape
        (10, 2, 40)
        >>> store.times("a.wav")[10:13], store[1:].ids
        (array([0.1 , 0.11, 0.12]), ['b.wav', 'c.wav'])
        >>> batch = hlfeat.collate([store[0], store[1]])
        >>> batch.features.shape
        torch.Size([2, 101, 2, 40])
    """

    def __init__(self, folder: str | Path, *folders: str | Path) -> None:
        self.folders = tuple(map(path_or_url, (folder, *folders)))
        with ExitStack() as stack:
            places = [stack.enter_context(open_place(folder)) for folder in self.folders]
            described: list[tuple[str, dict[str, Any]]] = []
            for place in places:
                described.append((str(place), read_description_dict(place.folder)))
                check_alike(described[0], described[-1])
            self._index = Index(places)
        self.description = described[0][1]
        self._dtypes = [dtype_of(description) for _, description in described]
        self._clips = Selection(self._index)
        self._shards = OpenShards()

    def __repr__(self) -> str:
        """Folders, clips and what they are, without a look at the disk unless hlfeat.yaml says little."""
        folders = ", ".join(map(repr, self._names))
        forms = "/".join(sorted({path.suffix[1:] for path in self._index.data}))
        try:
            rows = "frames" if len(self.shape) == 2 else "vectors"
            what = f", [{rows}, {', '.join(map(str, self.shape))}] {self.dtype} {forms}"
        except OutputError:
            what = ""
        clips = f"{count(len(self), 'clip')}, {duration(self._clips.seconds())}"
        return f"{type(self).__name__}({folders}: {clips}{what.rstrip()})"

    @property
    def _names(self) -> list[str]:
        """What messages call the folders."""
        return list(map(shown_folder, self.folders))

    @property
    def ids(self) -> Ids:
        return Ids(self._clips.ids)

    @property
    def frames(self) -> np.ndarray:
        return self._clips.frames

    @cached_property
    def shape(self) -> tuple[int, ...]:
        row = row_shape_of(self.description)
        return self._no_rows().shape[1:] if row is None else row

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        known = [dtype for dtype in self._dtypes if dtype is not None]
        return np.result_type(*known) if len(known) == len(self._dtypes) else self._no_rows().dtype

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
        return len(self._clips)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and self._clips.find(id_) is not None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for i in self._clips.numbers:
            yield self._index.id(i), self._rows(i, 0, None)

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> tuple[str, np.ndarray]: ...
    @overload
    def __getitem__(self, key: slice) -> FeatureStore: ...
    def __getitem__(self, key: Key | slice) -> np.ndarray | tuple[str, np.ndarray] | FeatureStore:
        if isinstance(key, slice):
            return self._view(self._clips.numbers[key])
        i = self._number(key)
        features = self._rows(i, 0, None)
        return features if isinstance(key, str) else (self._index.id(i), features)

    def __getitems__(self, keys: Sequence[Key]) -> list[np.ndarray | tuple[str, np.ndarray]]:
        """The items of a batch, as DataLoader asks for them. Clips at URLs are read several at once.

        Those of shards that are copied are read shard by shard: a process keeps few copies.
        """
        if not self._index.is_remote:
            return [self[key] for key in keys]
        shards = [int(self._index.shard[self._number(key)]) for key in keys]
        order = sorted(range(len(keys)), key=shards.__getitem__)
        copied = any(is_copied(self._index.data[shard]) for shard in set(shards))
        with ThreadPoolExecutor(1 if copied else AT_ONCE) as pool:
            items = dict(zip(order, pool.map(lambda n: self[keys[n]], order), strict=True))
        return [items[n] for n in range(len(keys))]

    def select(self, keys: Iterable[Key]) -> FeatureStore:
        """A store of these clips, by ids or numbers, in this order. Raises KeyError and IndexError as `read` does."""
        return self._view([self._number(key) for key in keys])

    def read(self, key: Key, start: int = 0, stop: int | None = None) -> np.ndarray:
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

    def record(self, key: Key) -> dict[str, Any]:
        """The index line of a clip, with keys such as `path`, `duration` in seconds and `sample_rate` (docs/format.md).

        Raises KeyError or IndexError for an unknown clip, OutputError for an index that has changed since the store was
        opened.
        """
        return self._index.record(self._number(key))

    def meta(self, key: Key) -> dict[str, Any]:
        """What a manifest says of a clip beyond what hlfeat uses, such as its speaker, by column.

        Empty where there is nothing. Raises as `record`.
        """
        return meta_of(self.record(key))

    def times(self, key: Key) -> np.ndarray:
        """Seconds from the clip's beginning to the centre of each of its frames (or windows).

        Those of a segment count from its start in the recording, which is `record(id).get("start", 0.0)`.

        Raises KeyError or IndexError for an unknown clip; OutputError where an earlier version has not written enough.

        Shape: -> float64 [frames].
        """
        i = self._number(key)
        return self._timing.times(int(self._index.frames[i]), float(self._index.duration[i]))

    def intervals(self, key: Key) -> np.ndarray:
        """Start and end, in seconds from the clip's beginning, of what each frame or pooled vector stands for.

        A frame: the moments that are nearer to its centre than to others'; a window: the seconds of `output.pool`, up
        to the end of the clip; a clip that was pooled as a whole: 0 to its duration.

        Raises as `times`.

        Shape: -> float64 [frames, 2].
        """
        i = self._number(key)
        return self._timing.intervals(int(self._index.frames[i]), float(self._index.duration[i]))

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row for each clip, in order, for which pandas must be installed.

        Columns: id, path, frames, duration, start and end of a segment (seconds), channel, sample_rate; and those of
        the metadata, under `meta.NAME` where a name is taken. Integers that float64 would round stay Python's.

        Raises UsageError without pandas, OutputError as `record`.
        """
        return to_pandas(self._index.records(self._clips.numbers))

    def split(
        self,
        by: str | Callable[[str], object] | None = None,
        valid: float = 0.1,
        test: float | None = None,
        seed: int = 0,
    ) -> tuple[FeatureStore, ...]:
        """Divide the clips into stores to train with, to validate with and, where a share is given, to test with.

        Clips of a group are in one of them: those of a speaker in two would flatter the result. The same clips and seed
        are divided in the same way on every machine, in whatever order they are. Inside a part they stay in order.

        Args:
            by: what makes groups: a column of `to_pandas` (such as "speaker", or "path" for segments of a recording), a
                function of the id, or None: each clip is its own group. Clips without a value are one group.
            valid, test: of the clips, as near as groups allow; no part is empty.
            seed: for another division.

        Returns: (train, valid) or (train, valid, test).

        Raises UsageError for a column that no clip has, impossible shares, and fewer groups than parts.

        Example:
            >>> train, valid = FeatureStore(features_dir).split(valid=0.3)
            >>> len(train), len(valid)
            (2, 1)
        """
        if by is None:
            groups = list(self._clips.ids)
        elif isinstance(by, str):
            groups = group_names(self._index.records(self._clips.numbers), by)
        else:
            groups = [group_name(by(id_)) for id_ in self._clips.ids]
        shares = [valid] if test is None else [valid, test]
        part_of, numbers = np.array(assign_groups(groups, shares, seed)), np.array(self._clips.numbers)
        return tuple(self._view(numbers[part_of == part]) for part in range(len(shares) + 1))

    def _view(self, numbers: Iterable[int] | np.ndarray) -> FeatureStore:
        """A store of clips of these numbers in the index, which shares all else with this one."""
        view: FeatureStore = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _clips=Selection(self._index, numbers))
        return view

    @cached_property
    def _timing(self) -> Timing:
        return timing_of(self.description, self._names[0])

    def _number(self, key: Key) -> int:
        """The number in the index of a clip, by its id or its place in the store."""
        if not isinstance(key, str):
            return self._clips.number(operator.index(key))
        number = self._clips.find(key)
        if number is None:
            near = self._clips.nearest(key)
            some = "" if self._clips.is_all else f"these {count(len(self), 'clip')} of "
            folders = some + ", ".join(self._names)
            raise KeyError(f"no clip {key!r} in {folders}" + (f"; near it are {', '.join(near)}" if near else ""))
        return number

    def _rows(self, i: int, start: int, stop: int | None) -> np.ndarray:
        row, frames, path = self._index.row[i], self._index.frames[i], self._index.data[self._index.shard[i]]
        stop = frames if stop is None else stop
        if not 0 <= start <= stop <= frames:
            raise ValueError(
                f"expected 0 <= start <= stop <= the {frames} frames of {self._index.id(i)!r}, got {start} and {stop}"
            )
        clip = self._shards.lookup(path)(self._index.id(i), row, frames)
        if len(clip) != frames:
            raise OutputError(f"{path}: damaged: shorter than its index says")
        return np.array(clip[start:stop])

    def _no_rows(self) -> np.ndarray:
        """None of the rows of some clip, for their shape and type."""
        if not len(self._index):
            raise OutputError(f"{self._names[0]}: holds no clip, and hlfeat.yaml does not say what features look like")
        return self._rows(0, 0, 0)
