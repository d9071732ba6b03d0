"""The shards and failures that runs of one part have left in a directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hlfeat.errors import OutputError
from hlfeat.files import json_lines
from hlfeat.partition import WHOLE
from hlfeat.storage.failure_record import FailureRecord, read_failures
from hlfeat.storage.index_entry import IndexEntry, read_index, read_index_lines
from hlfeat.storage.layout import FileName, Layout, ShardFiles, indexed_shards, own_files
from hlfeat.storage.publisher import LOCAL, Publisher
from hlfeat.storage.track_files import check_tracks, indexed_tracks, is_track, remove_tracks, track_checksum

_REMOVED_LAST = "description"  # it is the sign that the other files are hlfeat's


class ShardCatalog:
    """What is finished, and what failed. Only the files of the layout's own part are read and changed.

    Args:
        layout: of the files.
        files: writes and removes them.
    """

    def __init__(self, layout: Layout, files: Publisher = LOCAL) -> None:
        self.layout, self._files = layout, files

    def finished_shards(self) -> Iterator[tuple[int, list[IndexEntry]]]:
        """The numbers of the finished shards, and their index, in order.

        Raises OutputError where an index is damaged, or a shard's data is missing or shorter than its index says.
        """
        for shard in indexed_shards(self.layout.folder):
            if shard.layout.part == self.layout.part:
                with _repairable():
                    entries = list(read_index(shard.index))
                    name = _data_name(shard, entries)
                    if is_track(name):
                        check_tracks(self.layout, entries)
                    else:
                        self._files.check_data(self.layout.folder / name, _count_rows(shard, entries))
                yield shard.number, entries

    def edited_track(self, entries: Sequence[IndexEntry]) -> Path | None:
        """The first pitch track of a finished shard that is not as it was written; None of features."""
        for entry in entries:
            if is_track(entry.shard) and track_checksum(path := self.layout.track(entry.id)) != entry.crc32:
                return path
        return None

    def replace_metadata(self, number: int, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Give clips of a finished shard other metadata, by the ids of their index lines; all else stays."""
        shard = ShardFiles(self.layout, number)
        lines = read_index_lines(shard.index)
        changed = ({**line, "meta": dict(metadata[line["id"]])} if line["id"] in metadata else line for line in lines)
        # Not as the index with .tmp at its end: that is the draft of a shard, whose tracks the next run would remove.
        self._files.write(shard.index, json_lines(changed), beside=shard.statistics.name)

    def take_back(self, number: int) -> None:
        """Remove a finished shard, its index first: without its index, a shard does not count as finished."""
        shard = ShardFiles(self.layout, number)
        self._remove_index(shard.index, shard.draft_index)
        for path in (shard.statistics, *shard.data):
            self._files.remove(path)

    def _remove_index(self, index: Path, draft: Path, prune: bool = False) -> None:
        """Remove an index and the pitch tracks that it lists. It becomes a draft first: if this is interrupted, the
        next run goes on with it."""
        tracks = indexed_tracks(index)
        if tracks:
            index = index.replace(draft)
            remove_tracks(self.layout, tracks, prune)
        self._files.remove(index)

    def clean(self, everything: bool) -> None:
        """Remove what a killed run of this part left half-made, or with `everything` all that any run has written."""
        files = [(path, name) for path, name in own_files(self.layout.folder) if name.kind not in ("lock", "driver")]
        finished = {(name.part, name.number) for _, name in files if name.kind == "index" and not name.temporary}
        for path, name in sorted(files, key=_removal_order):
            orphan = name.kind in ("shard", "statistics") and (name.part, name.number) not in finished
            if not everything and not (name.part == self.layout.part and (orphan or name.temporary)):
                continue
            if name.kind == "index" and name.number is not None:
                draft = ShardFiles(Layout(self.layout.folder, name.part), name.number).draft_index
                self._remove_index(path, draft, prune=everything)
            else:
                self._files.remove(path)

    def failures(self) -> list[FailureRecord]:
        """The failures that earlier runs recorded."""
        path = self.layout.failures
        with _repairable():
            return list(read_failures(path)) if path.exists() else []

    def write_failures(self, failures: Iterable[FailureRecord]) -> None:
        """Replace failures.jsonl, or the part's."""
        self._files.write(self.layout.failures, json_lines(failure.as_dict() for failure in failures))

    def other_partitions(self) -> list[int]:
        """Those of `partitions` that are not the run's own."""
        return [of for of in self.partitions() if of != self.layout.part.of]

    def partitions(self) -> list[int]:
        """The numbers of parts into which runs have divided what is in the directory: 1 for the whole."""
        kinds = ("index", "failures", "report")
        names = (name for _, name in own_files(self.layout.folder) if name.kind in kinds and not name.temporary)
        return sorted({name.part.of for name in names if name.kind == "index" or name.part != WHOLE})


@contextmanager
def _repairable() -> Iterator[None]:
    """Errors about what is damaged name the remedy."""
    try:
        yield
    except OutputError as e:
        e.remedy = "repair"
        raise


def _removal_order(file: tuple[Path, FileName]) -> tuple[bool, bool, bool, str]:
    """The index of a shard goes before its data, and its draft before that: the index becomes the draft."""
    path, name = file
    return name.kind == _REMOVED_LAST, name.kind != "index", not name.temporary, path.name


def _data_name(shard: ShardFiles, entries: list[IndexEntry]) -> str:
    if not entries:
        raise OutputError(f"{shard.index}: damaged: there is no clip in it")
    return entries[-1].shard


def _count_rows(shard: ShardFiles, entries: list[IndexEntry]) -> int:
    """The rows of a shard. Raises OutputError if its clips are not one after the other."""
    rows = 0
    for entry in entries:
        if entry.row != rows:
            raise OutputError(f"{shard.index}: damaged: row {entry.row} where {rows} was expected")
        rows += entry.frames
    return rows
