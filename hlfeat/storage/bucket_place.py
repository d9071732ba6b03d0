"""A prefix of an S3 bucket as the output of a run.

The run works in a local folder, which stands for the prefix. Whatever it publishes is an object first, and a file of
that folder then; what it removes is removed from the bucket first. So a kill leaves in the bucket what it would leave
in a folder: data and statistics of a shard are uploaded before its index, whose existence says that it is finished.

Each write has a condition: that the object is as this run knows it. A run that has lost its lease cannot replace what
another one has written. Nor does it make what is not there yet: it asks for its lease before each request, also where
one is made again after the network was away.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.errors import HlfeatError, OutputError
from hlfeat.partition import WHOLE, Part
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.s3_writes import ANY, S3Prefix
from hlfeat.storage import lease
from hlfeat.storage.description import read_description
from hlfeat.storage.heartbeat import HeldError
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import AnotherRunError
from hlfeat.storage.output_place import OpenPlace
from hlfeat.storage.place import REMEDY, rename
from hlfeat.storage.staging import Staging

log = logging.getLogger("hlfeat")

_SMALL = ("description", "failures", "report")  # kinds of objects that are one for each part


class BucketPlace:
    """The objects right below a prefix; an OutputPlace.

    Args:
        bucket, key: where.
        retries: of requests before the run begins.
    """

    def __init__(self, bucket: str, key: str, retries: Retries = Retries()) -> None:  # noqa: B008
        self._where, self._retries = (bucket, key), retries
        self._url = S3Prefix(bucket, key, retries).url
        self._staging: Staging | None = None
        self._folder = ""  # of the latest of these

    def __str__(self) -> str:
        return self._url

    def __reduce__(self) -> tuple[Any, ...]:  # another process has a folder of its own
        return BucketPlace, self._where

    @property
    def local(self) -> None:
        return None

    def folder(self, indexes: bool = False, anew: bool = False) -> Path:
        prefix = S3Prefix(*self._where, self._retries)
        with self._usable():
            if self._staging is None or anew:
                self._staged().update(prefix.list(Layout.parse))
            staging = self._staged()
            staging.copy(prefix, lambda name: name.kind in _SMALL or (indexes and name.kind == "index"))
        return staging.folder

    def _staged(self) -> Staging:
        if self._staging is None:
            self._staging = Staging()
            self._folder = str(self._staging.folder)
        return self._staging

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except RemoteError as e:
            reason = "there is no such bucket" if e.code == "missing" else e
            raise OutputError(f"{self}: cannot be used as output: {reason}") from e

    def open(self, part: Part, retries: Retries) -> OpenPlace:
        prefix, staging = S3Prefix(*self._where, retries), self._staged()
        layout = Layout(staging.folder, part)
        with self._usable(), ExitStack() as opened:
            opened.callback(self._close)
            try:
                held = lease.Lease(prefix, layout, lease.BEAT, lease.STALE)
                opened.callback(held.release)
                listed = prefix.list(Layout.parse)  # only now that nobody changes what this run reads
                held.exclude(_excluded(listed, layout))
            except HeldError as e:
                doing = "" if part == WHOLE else f" part {part}"
                raise AnotherRunError(f"{self}: another run is writing{doing} here{e}") from e
            _abort_uploads(prefix, part)
            staging.update(listed)
            staging.copy(prefix, lambda name: name.part == part and name.kind in (*_SMALL, "index"))
            staging.copy(prefix, lambda name: name.kind == "description")
            files = BucketFiles(prefix.asking(held.check_place), staging, layout)
            return OpenPlace(layout, files, held, opened.pop_all().close)
        raise AssertionError("unreachable")

    def _close(self) -> None:
        if self._staging is not None:
            self._staging.remove()
            self._staging = None

    def shown(self, path: Path) -> Path | str:
        return f"{self}/{path.name}"

    @contextmanager
    def naming(self) -> Iterator[None]:
        try:
            yield
        except HlfeatError as e:
            local = isinstance(e.__cause__, OSError) and not isinstance(e.__cause__, FileNotFoundError)
            if self._folder and not local:  # a disk of this machine may be full
                rename(e, self._folder, self._url)
            if e.remedy == "repair":
                e.args, e.remedy = (f"{e}; {REMEDY}",), ""
            raise


class BucketFiles:
    """Writes and removes objects, and the files that stand for them; a Publisher.

    Args:
        prefix: where they are; it changes nothing when the run has lost its lease.
        staging: what is there, as this run knows it.
        layout: of the run's part; what other parts write too is replaced whatever it is.
    """

    def __init__(self, prefix: S3Prefix, staging: Staging, layout: Layout) -> None:
        self._prefix, self._staging, self._layout = prefix, staging, layout

    def publish(self, temporary: Path, path: Path) -> None:
        with self._changing(path):
            tag = self._prefix.upload(path.name, temporary, self._tag(path))
        size = temporary.stat().st_size
        temporary.unlink()
        self._staging.hold_place(path.name, tag, size)

    def write(self, path: Path, data: bytes, beside: str | None = None) -> None:
        if self._is_own(path) and self._staging.has(path.name, data):
            return
        with self._changing(path):
            tag = self._prefix.put(path.name, data, self._tag(path))
        self._staging.keep(path.name, tag, data)

    def create(self, path: Path, data: bytes, beside: str | None = None) -> None:
        try:
            with self._changing(path):
                tag = self._prefix.put(path.name, data, None)
        except OutputError as e:
            if not (isinstance(e.__cause__, RemoteError) and e.__cause__.conflict):
                raise
            data, tag = self.read(path), ""
        self._staging.keep(path.name, tag, data)

    def remove(self, path: Path) -> None:
        if not self._is_own(path) or path.name in self._staging.tags:
            with self._changing(path):
                self._prefix.delete(path.name)
        self._staging.forget(path.name)

    def read(self, path: Path) -> bytes:
        try:
            stored = self._prefix.get(path.name)
        except RemoteError as e:
            raise OutputError(f"{self._prefix.url}/{path.name}: cannot be read: {e}") from e
        if stored is None:
            raise FileNotFoundError(path.name)
        return stored.data

    def check_data(self, path: Path, rows: int) -> None:
        size = path.stat().st_size if path.exists() else None
        if size is None or size < rows * self._row_bytes:
            what = "is missing, though the index has it" if size is None else "damaged: shorter than its index says"
            raise OutputError(f"{path}: {what}", remedy="repair")

    @cached_property
    def _row_bytes(self) -> int:
        description = read_description(self._layout.folder)
        dtype: np.dtype[Any] = np.dtype(description.config["output"]["dtype"])
        return math.prod(description.features.row) * dtype.itemsize

    def _is_own(self, path: Path) -> bool:
        """Whether nobody else writes the file while this run has its lease."""
        name = Layout.parse(path.name)
        return name is not None and self._layout.part in (WHOLE, name.part)

    def _tag(self, path: Path) -> str | None:
        return self._staging.tags.get(path.name) if self._is_own(path) else ANY

    @contextmanager
    def _changing(self, path: Path) -> Iterator[None]:
        """Raises OutputError where the object cannot be changed, or is not this run's to change."""
        try:
            yield
        except RemoteError as e:
            url = f"{self._prefix.url}/{path.name}"
            if e.conflict:
                raise OutputError(f"{url}: another run has written it meanwhile, and this one ends") from e
            raise OutputError(
                f"{url}: cannot be written: {e}; what is finished is kept: run the same command again"
            ) from e


def _excluded(names: Iterable[str], layout: Layout) -> Iterator[Layout]:
    """Of runs that cannot be at work at the same time: of the whole and of parts."""
    for name in names:
        parsed = Layout.parse(name)
        if parsed is None or parsed.kind != "lock" or parsed.temporary or parsed.part == layout.part:
            continue
        if WHOLE in (parsed.part, layout.part):
            yield Layout(layout.folder, parsed.part)


def _abort_uploads(prefix: S3Prefix, part: Part) -> None:
    """Those of runs of this part that were killed. Not every server lists them, and not everybody may."""

    def ours(name: str) -> bool:
        parsed = Layout.parse(name)
        return parsed is not None and part in (WHOLE, parsed.part)

    try:
        prefix.abort_uploads(ours)
    except RemoteError as e:
        log.debug("%s: unfinished uploads are not known: %s", prefix.url, e)
