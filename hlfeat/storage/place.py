"""Where a feature directory is: a folder of this machine, or a URL whose small files are copied here to be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hlfeat.errors import HlfeatError, UsageError
from hlfeat.files import disk_errors_of
from hlfeat.remote.objects import stat
from hlfeat.remote.retries import RemoteError
from hlfeat.remote.urls import is_url, other_scheme, shown_url, unknown_scheme, url_of_path
from hlfeat.storage.index_lines import IndexLines, KeptLines, LinesOfFile, UnnamedFile
from hlfeat.storage.layout import Layout, ShardFiles
from hlfeat.storage.mirror import Mirror, mirror
from hlfeat.storage.remote_file import RETRIES, DataFile, RemoteFile

# What to do about damage in a bucket, where there is no `hlfeat repair`.
REMEDY = "remove the index of its shard, or that object where it is of no shard, and run the same again"


class Place(ABC):
    """Where a feature directory is; as text, what people call it.

    Attributes:
        folder: has all its files but the features.
        remedy: what to do about damage.
    """

    folder: Path
    remedy = "hlfeat repair"

    @abstractmethod
    def data(self, name: str) -> DataFile:
        """The features of that file name, which need not be there."""

    @abstractmethod
    def data_of(self, shard: ShardFiles) -> list[DataFile]:
        """The files of a shard's features that are there."""

    @abstractmethod
    def lines(self, index: Path) -> IndexLines:
        """The lines of an index, as long as they are wanted."""

    def named(self, text: str) -> str:
        """A message about a file in `folder`, with the name that people know it by."""
        return text.replace(str(self.folder), str(self))


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


class RemotePlace(Place):
    """A URL, of whose small files there are copies."""

    remedy = REMEDY

    def __init__(self, copies: Mirror) -> None:
        self.folder, self._mirror = copies.folder, copies
        self._kept = UnnamedFile()

    def __str__(self) -> str:
        return shown_url(self._mirror.url)

    def data(self, name: str) -> RemoteFile:
        entry = self._mirror.data.get(name)
        if entry is None:
            return RemoteFile(f"{self._mirror.url}/{name}")
        return RemoteFile(entry.url, entry.size, entry.tag)

    def data_of(self, shard: ShardFiles) -> list[DataFile]:
        return [self.data(path.name) for path in shard.data if path.name in self._mirror.data]

    def lines(self, index: Path) -> IndexLines:
        with disk_errors_of(self.folder.parent):
            start = self._kept.append(index.read_bytes() + b"\n")
        return KeptLines(f"{self}/{index.name}", self._kept, start)


def path_or_url(folder: str | Path) -> str | Path:
    """A folder of this machine as a path, and a URL as text without a slash at its end.

    Raises UsageError for a URL that was a path (one of its two slashes is left), or cannot be read.
    """
    text = str(folder)
    if is_url(text):
        url = text.rstrip("/")
        if not is_url(url):
            raise UsageError(f"{text}: expected the URL of a folder")
        return url
    as_url = url_of_path(text)
    if not (as_url or other_scheme(text)) or Path(folder).exists():
        return Path(folder)
    if other_scheme(text):
        raise UsageError(f"{text}: {unknown_scheme(text)}")
    raise UsageError(f"{text}: expected the URL as text, {as_url}: a path has one slash of the two")


def shown_folder(folder: str | Path) -> str:
    """What messages call a folder, or the URL of one: without the secrets that it may have."""
    return shown_url(str(folder))


def holds_features(folder: str) -> bool:
    """Whether a folder, of this machine or at a URL, is known to have features or pitch tracks in it."""
    where = path_or_url(folder)
    if isinstance(where, Path):
        return Layout(where).description.exists()
    try:
        stat(f"{where}/{Layout(Path()).description}", RETRIES)
    except RemoteError:
        return False
    return True


def is_folder(path: str) -> bool:
    """Whether it is a folder of this machine, or a URL at which features or pitch tracks are known to be."""
    return holds_features(path) if is_url(path) else Path(path).is_dir()


@contextmanager
def open_place(folder: str | Path) -> Iterator[Place]:
    """Where a feature directory is, to be read inside the context. Errors of the context name it as people do.

    Raises OutputError where a URL cannot be read, or there is no room for the copies.
    """
    where = path_or_url(folder)
    if isinstance(where, Path):
        yield LocalPlace(where)
        return
    with TemporaryDirectory(prefix="hlfeat-") as copies:
        with disk_errors_of(Path(copies).parent):
            place = RemotePlace(mirror(where, Path(copies), retries=RETRIES))
        try:
            yield place
        except HlfeatError as e:
            rename(e, str(place.folder), str(place))
            raise


def rename(error: HlfeatError, folder: str, name: str) -> None:
    """Have the message of an error call a folder by the name that people know it by."""
    error.args = tuple(arg.replace(folder, name) if isinstance(arg, str) else arg for arg in error.args)
