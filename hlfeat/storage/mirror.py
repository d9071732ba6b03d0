"""The small files of a feature directory at a URL, copied to this machine. The features stay where they are."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hlfeat.errors import OutputError
from hlfeat.remote.folders import list_folder
from hlfeat.remote.objects import RemoteObject, read
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.urls import shown_url
from hlfeat.storage.layout import Kind, Layout

# The kinds that can be copied.
SMALL: frozenset[Kind] = frozenset({"index", "statistics", "failures", "report", "description"})
_THREADS = 16
_DEFAULT = Retries()


@dataclass(frozen=True)
class Mirror:
    """What there is at a URL, as a listing had it.

    Attributes:
        url: of the directory, without a slash at its end.
        folder: has the copies, under the same names.
        copied: the objects of which there are copies, by name.
        data: those of features, by name.
    """

    url: str
    folder: Path
    copied: dict[str, RemoteObject]
    data: dict[str, RemoteObject]


def mirror(url: str, folder: Path, kinds: Collection[Kind] = SMALL, retries: Retries = _DEFAULT) -> Mirror:
    """Copy the small files of a feature directory into a folder that exists, several at once.

    A file that is gone when its turn comes counts as never listed: that is the index of a shard that is taken back. An
    index is there only if its features are, so those of the indexes that were copied are in `data`. Half-made files and
    those that are not hlfeat's are left out. Where there is no such directory, there is nothing.

    Args:
        kinds: of files, among SMALL.

    Raises OutputError, whose cause is a RemoteError, where objects cannot be listed or read; OSError of the disk.
    """
    url = url.rstrip("/")
    try:
        listed = {entry.url.rpartition("/")[2]: entry for entry in list_folder(url, retries, Layout.parse)}
    except RemoteError as e:
        raise OutputError(f"{shown_url(url)}: cannot be read: {e}") from e
    kind_of = {name: parsed.kind for name in listed if (parsed := Layout.parse(name)) and not parsed.temporary}
    data = {name: listed[name] for name, kind in kind_of.items() if kind == "shard"}

    def copy(name: str) -> bool:
        try:
            (folder / name).write_bytes(read(listed[name].url, retries=retries))
        except RemoteError as e:
            if e.code == "missing":
                return False
            raise OutputError(f"{shown_url(listed[name].url)}: cannot be read: {e}") from e
        return True

    wanted = [name for name, kind in kind_of.items() if kind in kinds]
    with ThreadPoolExecutor(_THREADS) as pool:
        there = list(pool.map(copy, wanted))
    return Mirror(
        url, folder, {name: listed[name] for name, is_there in zip(wanted, there, strict=True) if is_there}, data
    )
