"""The place that is meant by a name: a folder, or a prefix of a bucket."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hlfeat.errors import UsageError
from hlfeat.partition import Part
from hlfeat.remote.retries import Retries
from hlfeat.remote.s3_writes import split_url
from hlfeat.remote.urls import shown_url, url_of_path
from hlfeat.storage.bucket_place import BucketPlace
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import DirectoryLock
from hlfeat.storage.output_place import OpenPlace, OutputPlace
from hlfeat.storage.publisher import LOCAL

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class FolderPlace:
    """A folder; an OutputPlace."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def local(self) -> Path | None:
        return self.path

    def folder(self, indexes: bool = False, anew: bool = False) -> Path:
        return self.path

    def open(self, part: Part, retries: Retries) -> OpenPlace:
        layout = Layout(self.path, part)
        lock = DirectoryLock(layout)
        return OpenPlace(layout, LOCAL, lock, lock.release)

    def shown(self, path: Path) -> Path | str:
        return path

    def naming(self) -> AbstractContextManager[None]:
        return nullcontext()


def place_of(out: str | Path | OutputPlace, retries: Retries = Retries()) -> OutputPlace:  # noqa: B008
    """The folder of a path, or what an s3:// URL says.

    Raises UsageError for any other URL: it is not known that of two runs, which write there at once, one wins.

    >>> str(place_of("s3://speech/features/"))
    's3://speech/features'
    """
    if not isinstance(out, str | Path):
        return out
    expected = f"{shown_url(str(out))}: expected a folder or s3://BUCKET/PREFIX"
    if url_of_path(str(out)):
        if isinstance(out, Path):
            raise UsageError(f"{expected}, a URL as text: as a path it has lost a slash")
        raise UsageError(f"{expected}, with two slashes")
    if isinstance(out, Path) or not _URL.match(out):
        return FolderPlace(Path(out))
    place = split_url(out)
    if place is None:
        raise UsageError(expected)
    return BucketPlace(*place, retries)
