"""Reading a finished (or growing) feature directory. Needs no torch unless the shards are `.pt`."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np

from hlfeat.errors import OutputError
from hlfeat.outdir import INDEX_KEYS, read_description, read_records, shard_indexes
from hlfeat.shards import Record


class FeatureStore:
    """The clips of a feature directory, by id or by number; a map-style dataset for torch as it is.

    `store["a/b.wav"]` is the clip's features; `store[3]` and iteration give (id, features), in the order of the index.
    `.npy` shards are memory-mapped: only what is touched is read. Changing an array changes no file.

    Shape: features [frames, channels, bands], float32 or float16.

    Raises:
        OutputError: not a feature directory, or damaged.
        KeyError: no such id; the nearest are named.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.description = read_description(self.folder)
        self.records: list[Record] = []
        for index in shard_indexes(self.folder).values():
            self.records.extend(read_records(index, INDEX_KEYS))
        self._by_id = {r["id"]: r for r in self.records}
        self._shards: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._by_id

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for record in self.records:
            yield record["id"], self._features(record)

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> tuple[str, np.ndarray]: ...
    def __getitem__(self, key: str | SupportsIndex) -> np.ndarray | tuple[str, np.ndarray]:
        if isinstance(key, str):
            if key not in self._by_id:
                near = difflib.get_close_matches(key, self._by_id, n=3)
                raise KeyError(
                    f"no clip {key!r} in {self.folder}" + (f"; near it are {', '.join(near)}" if near else "")
                )
            return self._features(self._by_id[key])
        record = self.records[operator.index(key)]
        return record["id"], self._features(record)

    def ids(self) -> list[str]:
        """All ids, in order."""
        return list(self._by_id)

    def record(self, id_: str) -> Record:
        """The index line of a clip."""
        return self._by_id[id_]

    def _features(self, record: Record) -> np.ndarray:
        shard = self._shard(record["shard"])
        if isinstance(shard, dict):
            return shard[record["id"]]  # type: ignore[no-any-return]
        rows: np.ndarray = shard[record["row"] : record["row"] + record["frames"]]
        if len(rows) != record["frames"]:
            raise OutputError(f"{self.folder / record['shard']}: damaged: shorter than its index says")
        return rows

    def _shard(self, name: str) -> Any:
        if name not in self._shards:
            path = self.folder / name
            try:
                # copy on write: torch would warn of an array that it may not write to
                self._shards[name] = _load_pt(path) if path.suffix == ".pt" else np.load(path, mmap_mode="c")
            except (OSError, ValueError) as e:
                raise OutputError(f"{path}: cannot be read: {e}") from e
        return self._shards[name]

    def __getstate__(self) -> dict[str, Any]:  # a worker process maps the shards itself
        return {**self.__dict__, "_shards": {}}


def _load_pt(path: Path) -> dict[str, np.ndarray]:
    import torch

    return {k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}
