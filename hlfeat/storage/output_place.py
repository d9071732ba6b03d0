"""What a place must be able to do that runs write to, be it a folder or a prefix of a bucket."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hlfeat.partition import Part
from hlfeat.remote.retries import Retries
from hlfeat.storage.layout import Layout
from hlfeat.storage.publisher import Publisher


class Lock(Protocol):
    """What keeps other runs out."""

    def check_place(self) -> None:
        """Raises OutputError if it does not any more."""

    def release(self) -> None: ...


@dataclass(frozen=True)
class OpenPlace:
    """A place that a run of one part has to itself.

    Attributes:
        layout: of the folder in which its files are; those of a bucket are there as far as a run reads them.
        files: writes them.
        lock: keeps other runs out.
        close: lets them in.
    """

    layout: Layout
    files: Publisher
    lock: Lock
    close: Callable[[], None]


class OutputPlace(Protocol):
    """A folder or a prefix. Its text is what messages call it. It can be pickled."""

    @property
    def local(self) -> Path | None:
        """The folder; None where files do not stay on this machine."""

    def folder(self, indexes: bool = False, anew: bool = False) -> Path:
        """The folder, which may not exist; of a prefix, a local one with what is there. Nothing is locked.

        Args:
            anew: look at a bucket again, and not only the first time.
            indexes: whether the indexes of shards are read too, and not only what is there, with which settings, and
                what reports and failures say. Of features there are names and sizes only.

        Raises OutputError where a bucket cannot be read.
        """

    def open(self, part: Part, retries: Retries) -> OpenPlace:
        """Lock it for a run of a part.

        Raises OutputError where another run is at work there, or it cannot be written.
        """

    def shown(self, path: Path) -> Path | str:
        """What to call a file of the folder, or one of the same name: its path or URL."""

    def naming(self) -> AbstractContextManager[None]:
        """In errors that this block raises, the folder is called what the place is."""
