"""A file of features at a URL, of which ranges are read."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from hlfeat.errors import OutputError
from hlfeat.remote.folders import read_range
from hlfeat.remote.objects import stat
from hlfeat.remote.ranged_file import RangedFile
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.urls import scheme_of, shown_url

RETRIES = Retries()
READ_AHEAD = 8 << 20  # bytes of a request where a file is read in order


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a URL, as it was when it was listed. It is as much of a Path as those who read shards need.

    Reading raises OutputError with the URL, also where the file has changed since. In S3 every request says which
    version it wants. Elsewhere a file is compared with the listing when it is opened.

    Attributes:
        url: of the file.
        size: in bytes; None where the listing did not say it, or had no such file.
        tag: of its version; None where the listing did not say it.
    """

    url: str
    size: int | None = None
    tag: str | None = None

    def __str__(self) -> str:
        return shown_url(self.url)

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def opened(self) -> RemoteFile:
        """The same with its size. Where a request cannot say which version it wants, that is asked for here."""
        if self.size is not None and self.tag is not None and scheme_of(self.url) == "s3":
            return self
        with self._reading():
            now = stat(self.url, RETRIES)
        if now.size is None:
            raise OutputError(f"{self}: cannot be read: the server does not say how long it is")
        if self.size not in (None, now.size) or (None not in (self.tag, now.tag) and self.tag != now.tag):
            raise self._changed()
        return RemoteFile(self.url, now.size, now.tag)

    def read(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (not included), in one request."""
        with self._reading():
            return read_range(self.url, start, end, RETRIES, self.tag)

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """To be read in order, with few requests and in bounded memory."""
        file = self.opened()
        assert file.size is not None
        return io.BufferedReader(RangedFile(file.size, file.read), READ_AHEAD)

    @contextmanager
    def copied(self) -> Iterator[Path]:
        """A copy of the whole file on this machine; what maps it into memory may outlive the context."""
        with tempfile.NamedTemporaryFile(prefix="hlfeat-", suffix=self.suffix) as copy:
            with self.open() as source:
                while data := source.read(READ_AHEAD):
                    copy.write(data)
            copy.flush()
            yield Path(copy.name)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except RemoteError as e:
            raise self._changed() if e.conflict else OutputError(f"{self}: cannot be read: {e}") from e

    def _changed(self) -> OutputError:
        return OutputError(f"{self}: has changed since it was opened")


DataFile = Path | RemoteFile  # the features of a shard


def size_of(file: DataFile) -> int:
    """In bytes. Raises OSError or OutputError where there is no such file."""
    if isinstance(file, RemoteFile):
        size = file.opened().size
        assert size is not None
        return size
    return file.stat().st_size
