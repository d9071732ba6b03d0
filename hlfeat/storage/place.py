"""Where a feature directory is: a folder of this machine, or a URL whose small files are copied here to be read."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hlfeat.errors import HlfeatError, OutputError
from hlfeat.remote.objects import stat
from hlfeat.remote.retries import RemoteError
from hlfeat.remote.urls import is_url
from hlfeat.storage.index_lines import IndexLines, KeptLines, LinesOfFile, UnnamedFile
from hlfeat.storage.layout import Layout, ShardFiles
from hlfeat.storage.mirror import Mirror, mirror
from hlfeat.storage.remote_file import RETRIES, DataFile, RemoteFile


class Place(ABC):
    """Where a feature directory is; as text, what people call it.

    Attributes:
        folder: has all its files but the features.
    """

    folder: Path

    @abstractmethod
    def data(self, name: str) -> DataFile:
        """The features of that file name, which need not be there."""

    @abstractmethod
    def data_of(self, shard: ShardFiles) -> list[DataFile]:
        """The files of a shard's features that are there."""

    @abstractmethod
    def lines(self, index: Path) -> IndexLines:
        """The lines of an index, as long as they are wanted."""

    @abstractmethod
    def named(self, text: str) -> str:
        """A message about a file in `folder`, with the name that people know it by."""


class LocalPlace(Place):
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def data(self, name: str) -> Path:
        return self.folder / name

    def data_of(self, shard: ShardFiles) -> list[DataFile]:
        return [path for path in shard.data if path.exists()]

    def lines(self, index: Path) -> IndexLines:
        return LinesOfFile(index)

    def named(self, text: str) -> str:
        return text


class RemotePlace(Place):
    """A URL, of whose small files there are copies."""

    def __init__(self, copies: Mirror) -> None:
        self.folder, self._mirror = copies.folder, copies
        self._kept = UnnamedFile()

    def __str__(self) -> str:
        return self._mirror.url

    def data(self, name: str) -> RemoteFile:
        found = self._mirror.data.get(name)
        if found is None:
            return RemoteFile(f"{self}/{name}")
        return RemoteFile(found.url, found.size, found.tag)

    def data_of(self, shard: ShardFiles) -> list[DataFile]:
        return [self.data(path.name) for path in shard.data if path.name in self._mirror.data]

    def lines(self, index: Path) -> IndexLines:
        return KeptLines(f"{self}/{index.name}", self._kept, self._kept.append(index.read_bytes()))

    def named(self, text: str) -> str:
        return text.replace(str(self.folder), str(self))


def place_of(folder: str | Path) -> str | Path:
    """A folder of this machine as a path, and a URL as text without a slash at its end.

    Raises OutputError for a URL that was a path: of its two slashes one is left.
    """
    text = str(folder)
    if is_url(text):
        return text.rstrip("/")
    as_url = re.sub(r"^(\w+):/(?!/)", r"\1://", text)
    if as_url != text and is_url(as_url) and not Path(folder).exists():
        raise OutputError(f"{as_url}: expected a URL as text, got a path")
    return Path(folder)


def holds_features(folder: str) -> bool:
    """Whether a folder, of this machine or at a URL, is known to have features or pitch tracks in it."""
    where = place_of(folder)
    if isinstance(where, Path):
        return Layout(where).description.exists()
    try:
        stat(f"{where}/{Layout(Path()).description}", RETRIES)
    except RemoteError:
        return False
    return True


@contextmanager
def open_place(folder: str | Path) -> Iterator[Place]:
    """Where a feature directory is, to be read inside the context. Errors of the context name it as people do.

    Raises OutputError where a URL cannot be read.
    """
    where = place_of(folder)
    if isinstance(where, Path):
        yield LocalPlace(where)
        return
    with TemporaryDirectory(prefix="hlfeat-") as copies:
        place = RemotePlace(mirror(where, Path(copies), retries=RETRIES))
        try:
            yield place
        except HlfeatError as e:
            e.args = tuple(place.named(arg) if isinstance(arg, str) else arg for arg in e.args)
            raise
