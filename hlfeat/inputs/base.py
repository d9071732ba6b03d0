"""What an input kind is: how it recognises an argument, and what it makes of it.

The kinds are tried in the order of `INPUT_KINDS` in hlfeat/inputs/collect.py. They work on strings and on headers: no
kind opens audio.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO, ClassVar, NamedTuple

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Stamp
from hlfeat.audio.formats import extension, is_apple_double
from hlfeat.inputs.root import NO_ROOT, Root
from hlfeat.inputs.urls import asking
from hlfeat.remote.objects import read
from hlfeat.remote.retries import Retries
from hlfeat.remote.urls import is_url, name_of, normal_url, shown_url


class Origin(Enum):
    """Where a path was read."""

    ARGUMENT = "an input of the run"
    MANIFEST = "an input that was given as a manifest"
    LIST = "a line of a list"
    FOLDER = "an entry of a folder"


GIVEN = frozenset({Origin.ARGUMENT, Origin.MANIFEST})  # named by the user: an error in it stops the run


class Reading(NamedTuple):
    """How all inputs of a run are read.

    Attributes:
        root: what paths in lists and manifests are relative to.
        retries: how often a request to a URL is made again.
        audio_column: the name of the column of audio in tables of Parquet; None: the only one that looks like audio.
    """

    root: Root = NO_ROOT
    retries: Retries = Retries(0)
    audio_column: str | None = None


class Argument(NamedTuple):  # half the time of a frozen dataclass, and there is one for each file of a folder
    """A path that stands for clips. `Argument.of` makes one, and `entry` one that it leads to.

    Attributes:
        path: as written, or "-".
        origin: where it was read.
        status: of the file, through links; None if there is no such file or it cannot be reached.
        id: of the clip, if the path is one file.
        prefix: the ids of clips inside it (a folder's files, an archive's members) begin with it.
        parents: device and inode of the folders that were entered on the way to it.
        url: what is fetched, where it is a URL: `path` has no secrets.
        listed: size (bytes) and modification time (nanoseconds since 1970; None: not known) of an object in a folder.
        reading: how it is read, and all that it leads to.
        stdin: what "-" stands for.
        null: paths of a list end with NUL instead of a newline.
    """

    path: str
    origin: Origin
    status: os.stat_result | None
    id: str
    prefix: str = ""
    parents: tuple[tuple[int, int], ...] = ()
    url: str | None = None
    listed: Stamp | None = None
    reading: Reading = Reading()
    stdin: BinaryIO | None = None
    null: bool = False

    @classmethod
    def of(
        cls,
        path: str,
        origin: Origin,
        id_: str,
        prefix: str = "",
        parents: tuple[tuple[int, int], ...] = (),
        listed: Stamp | None = None,
        reading: Reading = Reading(),  # noqa: B008
    ) -> Argument:
        """One at a path or a URL."""
        if "://" in path and is_url(path):
            url = normal_url(path)
            return cls(shown_url(url), origin, None, id_, prefix, parents, url, listed, reading)
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            status = None
        return cls(path, origin, status, id_, prefix, parents, None, None, reading)

    def entry(
        self,
        path: str,
        origin: Origin,
        id_: str,
        prefix: str = "",
        parents: tuple[tuple[int, int], ...] = (),
        listed: Stamp | None = None,
    ) -> Argument:
        """A line of this list, or an entry of this folder, which is read as this is."""
        return Argument.of(path, origin, id_, prefix, parents, listed, self.reading)

    @property
    def root(self) -> Root:
        """What paths in it are relative to."""
        return self.reading.root

    @property
    def secret_url(self) -> str | None:
        """What is fetched, where that is not the path."""
        return None if self.url == self.path else self.url

    @property
    def name(self) -> str:
        """The path, without the query of a URL: what the extension is to be read from."""
        return self.path if self.url is None else name_of(self.path)

    def content(self) -> bytes | None:
        """The bytes at a URL; None of a path.

        Raises:
            UsageError: it does not exist, or may not be read.
            UnreachableError: its server does not answer.
        """
        if self.url is None:
            return None
        with asking(self.path):
            return read(self.url, retries=self.reading.retries)

    @property
    def is_folder(self) -> bool:
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)


def is_missing(path: str) -> bool:
    """Whether there is no such file, or a link that leads nowhere. A file that may not be reached is there, and so is
    one at a URL, which is not asked for."""
    if "://" in path and is_url(path):
        return False
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        return True
    except OSError:
        return os.path.islink(path)
    return False


@dataclass(frozen=True)
class Skipped:
    """A file that is no clip, because its name is not that of audio; or a hidden folder, which is not searched."""

    path: str
    is_folder: bool = False

    @property
    def kind(self) -> str:
        """The extension of a file, as the summary shows it."""
        if is_apple_double(self.path):
            return "._*"
        kind = extension(self.path)
        return f".{kind}" if kind else "no extension"

    @property
    def reason(self) -> str:
        """Why it is no clip."""
        if self.is_folder:
            return "a hidden folder"
        return "a resource fork of macOS" if is_apple_double(self.path) else "not an audio extension"


class InputKind(ABC):
    """One kind of input. To add one: a class with these three, and an entry of `INPUT_KINDS`."""

    origins: ClassVar[frozenset[Origin]] = frozenset(Origin)  # where this kind is recognised

    @abstractmethod
    def matches(self, argument: Argument) -> bool:
        """Whether the argument is of this kind. The first kind that says so gets it."""

    @abstractmethod
    def clips(self, argument: Argument) -> Iterator[Clip | Skipped | Argument]:
        """The clips that it stands for, in order. An Argument stands for clips of its own, at this place.

        A clip that is known to be unusable is still a clip (with a `fault`), so that it ends up among the failures.

        Raises:
            UsageError: the argument cannot be read, or is not what its name says.
        """
