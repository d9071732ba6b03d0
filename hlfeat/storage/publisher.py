"""How a run's files get to where they stay: each is there as a whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hlfeat.files import publish, write_atomically
from hlfeat.storage.formats import check_shard


class Publisher(Protocol):
    """Writes and removes files of an output, whose paths a `Layout` names.

    All methods raise OSError or OutputError where that fails.
    """

    def publish(self, temporary: Path, path: Path) -> None:
        """Give a synced file its name."""

    def write(self, path: Path, data: bytes, beside: str | None = None) -> None:
        """Write a whole file, or replace it.

        Args:
            beside: its name before it is whole, if another run may be writing the same file.
        """

    def create(self, path: Path, data: bytes, beside: str | None = None) -> None:
        """Write a file that several runs may create at the same time: afterwards, it is one of theirs."""

    def remove(self, path: Path) -> None:
        """Remove a file if it is there."""

    def read(self, path: Path) -> bytes:
        """A whole file as it is now, be it another part's. Raises FileNotFoundError."""

    def check_data(self, path: Path, rows: int) -> None:
        """Raises OutputError where a shard's data is missing or not complete. Does not read the features."""


class LocalFiles:
    """Files in a folder: written beside their names, synced and renamed."""

    def publish(self, temporary: Path, path: Path) -> None:
        publish(temporary, path)

    def write(self, path: Path, data: bytes, beside: str | None = None) -> None:
        write_atomically(path, data, beside=beside)

    def create(self, path: Path, data: bytes, beside: str | None = None) -> None:
        write_atomically(path, data, beside=beside)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def check_data(self, path: Path, rows: int) -> None:
        check_shard(path, rows)


LOCAL = LocalFiles()
