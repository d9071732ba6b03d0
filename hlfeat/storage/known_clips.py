"""The ids of the clips that a folder knows: those that are done, and those that failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hlfeat.errors import OutputError
from hlfeat.storage.failure_record import read_failures
from hlfeat.storage.index_entry import read_index
from hlfeat.storage.layout import indexed_shards, own_files
from hlfeat.storage.output_place import OutputPlace


def known_ids(folder: Path) -> set[str]:
    """The ids in the index and among the failures of all parts; none of a folder that does not exist.

    A file whose channels are clips of their own (`a.wav#0`) is there by its own id too.

    Raises:
        OutputError: an index or a list of failures is damaged.
    """
    try:
        return set(_ids(folder)) if folder.is_dir() else set()
    except OutputError as e:
        e.remedy = "repair"
        raise


def known_ids_in(place: OutputPlace) -> set[str]:
    """The same of a place, which may be a bucket. Raises OutputError where that cannot be read, too."""
    with place.naming():
        return known_ids(place.folder(indexes=True))


def _ids(folder: Path) -> Iterator[str]:
    for shard in indexed_shards(folder):
        for entry in read_index(shard.index):
            yield entry.id
            if entry.channel is not None:
                yield entry.id.rpartition("#")[0]
    for path, name in own_files(folder):
        if name.kind == "failures" and not name.temporary:
            yield from (failure.id for failure in read_failures(path))
