"""A file that is written beside its name, as a context: shards that are one file, and manifests."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from hlfeat.files import TEMPORARY, publish, sync

Draft = TypeVar("Draft", bound="DraftFile")


class DraftFile:
    """A file beside its name, as a context; without `publish`, nothing is left of it.

    Shards that are one file derive from it.

    Attributes:
        path: that it gets.
        file: to write to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(path.name + TEMPORARY)
        self.file: IO[bytes] = open(self._temporary, "wb")

    def publish(self) -> Path:
        """Sync the file and give it its name."""
        sync(self.file)
        self.file.close()
        publish(self._temporary, self.path)
        return self.path

    def __enter__(self: Draft) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk: what could not be flushed is thrown away next
            self.file.close()
        self._temporary.unlink(missing_ok=True)


def remove_draft(path: Path) -> None:
    """Remove a half-written file, or a folder of files."""
    if path.is_dir() and not path.is_symlink():
        for below in path.iterdir():
            below.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
