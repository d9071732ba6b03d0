"""Objects right below a prefix of an S3 bucket, written on the condition that what was there before is still there.

Nothing can be renamed in a bucket, and there are no locks. But a server can be told to make an object only if there is
none (If-None-Match), or to replace it only if its tag is still that one (If-Match): of several writers, one wins.

A request whose answer was lost is made again, and is refused then, since the object is there. So every write has a
random token with it, in the object's metadata: it says whose object that is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.systems import file_system

ANY = "*"  # in place of a tag: whatever is there
_TOKEN = "hlfeat-write"  # the key of the metadata
_WHOLE = 32 << 20  # bytes that are uploaded in one request
_PART = 16 << 20  # bytes of each part of what is larger, at least
_PARTS = 10_000  # of an upload: S3 takes no more
_AT_ONCE = 4  # parts
_ATTEMPTS = 6  # each ends because another request for the object is at work, which may be this run's own
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")
_CHANGES = frozenset({"put_object", "delete_object", "create_multipart_upload", "complete_multipart_upload"})

Request = Callable[[Mapping[str, str], Mapping[str, str]], str]  # of a condition and of metadata; returns the tag


@dataclass(frozen=True, slots=True)
class Listed:
    """An object, as a listing has it: bytes, and the tag of its contents."""

    size: int
    tag: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: its bytes, their tag, and the seconds since it was written, by the clock of the server."""

    data: bytes
    tag: str
    age: float


def split_url(url: str) -> tuple[str, str] | None:
    """The bucket and the key of an s3:// URL; None where it names no bucket.

    >>> split_url("s3://speech/features/v1/")
    ('speech', 'features/v1')
    """
    scheme, _, place = url.partition("://")
    bucket, _, key = place.partition("/")
    return (bucket, key.rstrip("/")) if scheme.lower() == "s3" and _BUCKET.fullmatch(bucket) else None


class S3Prefix:
    """The objects right below a prefix, by their names; for any number of threads and processes.

    All methods raise RemoteError; its `conflict` says that an object is not what it was expected to be.

    Args:
        bucket, key: where; an empty key is the bucket itself.
    """

    def __init__(self, bucket: str, key: str, retries: Retries) -> None:
        self.url = f"s3://{bucket}/{key}" if key else f"s3://{bucket}"
        self._may_change: Callable[[], None] = lambda: None
        self._bucket, self._prefix, self._retries = bucket, f"{key}/" if key else "", retries

    def asking(self, may_change: Callable[[], None]) -> S3Prefix:
        """The same prefix, for a run that may lose its lease.

        Args:
            may_change: called before each request that changes an object, also where one is made again after minutes;
                it raises an HlfeatError where nothing may be changed any more.
        """
        prefix = copy(self)
        prefix._may_change = may_change
        return prefix

    def list(self, wanted: Callable[[str], object]) -> dict[str, Listed]:
        """What there is of names that are wanted, without what lies deeper: a prefix may have millions of others."""
        return {name: listed for name, listed in self._listed() if wanted(name)}

    def _listed(self) -> Iterator[tuple[str, Listed]]:
        more: dict[str, str] | None = {}
        while more is not None:
            page = self._call("list_objects_v2", Prefix=self._prefix, Delimiter="/", **more)
            for found in page.get("Contents", ()):
                if name := found["Key"].removeprefix(self._prefix):
                    yield name, Listed(found["Size"], found["ETag"])
            more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None

    def get(self, name: str) -> Stored | None:
        """None where there is no object."""
        try:
            return self._retries.call(lambda: self._get(name), self._name(name))
        except RemoteError as e:
            if e.code == "missing":
                return None
            raise

    def _get(self, name: str) -> Stored:
        from fsspec.asyn import sync

        system = file_system(self.url)

        async def request() -> Stored:
            answer = await system._call_s3("get_object", Bucket=self._bucket, Key=self._prefix + name)
            return Stored(await answer["Body"].read(), answer["ETag"], _age(answer))

        stored: Stored = sync(system.loop, request)
        return stored

    def put(self, name: str, data: bytes, tag: str | None) -> str:
        """Write an object, and return its tag.

        Args:
            tag: of what it replaces; None: of nothing; ANY: of whatever is there.
        """

        def request(condition: Mapping[str, str], metadata: Mapping[str, str]) -> str:
            answer = self._call_on(name, "put_object", Body=data, Metadata=metadata, **condition)
            return str(answer["ETag"])

        return self._store(name, tag, request)

    def upload(self, name: str, path: Path, tag: str | None) -> str:
        """Write a file as an object, as `put` does; a large one in parts, which are nothing until all are there."""
        size = path.stat().st_size
        if size <= _WHOLE:
            return self.put(name, path.read_bytes(), tag)
        return self._store(name, tag, lambda *how: self._upload_parts(name, path, size, *how))

    def _upload_parts(
        self, name: str, path: Path, size: int, condition: Mapping[str, str], metadata: Mapping[str, str]
    ) -> str:
        upload = {"UploadId": self._call_on(name, "create_multipart_upload", Metadata=metadata)["UploadId"]}
        part_bytes = max(_PART, -(-size // _PARTS))

        def part(n: int) -> dict[str, Any]:
            data = os.pread(file.fileno(), part_bytes, n * part_bytes)
            answer = self._call_on(name, "upload_part", PartNumber=n + 1, Body=data, **upload)
            return {"PartNumber": n + 1, "ETag": answer["ETag"]}

        try:
            with open(path, "rb") as file, ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload") as threads:
                parts = {"Parts": list(threads.map(part, range(-(-size // part_bytes))))}
            done = self._call_on(name, "complete_multipart_upload", MultipartUpload=parts, **upload, **condition)
        except BaseException:
            with suppress(RemoteError):
                self._call_on(name, "abort_multipart_upload", **upload)
            raise
        return str(done["ETag"])

    def _store(self, name: str, tag: str | None, request: Request) -> str:
        condition = {} if tag == ANY else {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        token = uuid4().hex
        for n in range(_ATTEMPTS):
            try:
                return request(condition, {_TOKEN: token})
            except RemoteError as e:
                if not (e.conflict or e.code == "missing"):
                    raise
                now, whose = self._head(name)
                if now is not None and whose == token:
                    return now  # it was done, and the answer lost
                if now != tag and tag != ANY:
                    raise RemoteError("unreadable", f"{name} was written by another run", conflict=True) from e
                if e.code == "missing":
                    raise
                if n == _ATTEMPTS - 1:
                    raise RemoteError("unreachable", str(e)) from e
                self._retries.pause(n)
        raise AssertionError("unreachable")

    def _head(self, name: str) -> tuple[str | None, str | None]:
        """The tag of an object, and the token of the write; None where there is no object."""
        try:
            answer = self._call_on(name, "head_object")
        except RemoteError as e:
            if e.code == "missing":
                return None, None
            raise
        return answer["ETag"], answer.get("Metadata", {}).get(_TOKEN)

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._call_on(name, "delete_object")

    def abort_uploads(self, ours: Callable[[str], bool]) -> None:
        """Give up the unfinished uploads of names that are ours: of runs that were killed. Nobody lists their parts,
        but they are paid for."""
        found = self._call("list_multipart_uploads", Prefix=self._prefix)
        for upload in found.get("Uploads", ()):
            name = upload["Key"].removeprefix(self._prefix)
            if ours(name):
                self._call_on(name, "abort_multipart_upload", UploadId=upload["UploadId"])

    def _call_on(self, name: str, method: str, **arguments: Any) -> Any:
        return self._call(method, name, Key=self._prefix + name, **arguments)

    def _call(self, method: str, name: str = "", **arguments: Any) -> Any:
        def request() -> Any:
            if method in _CHANGES:
                self._may_change()
            return file_system(self.url).call_s3(method, Bucket=self._bucket, **arguments)

        return self._retries.call(request, self._name(name))

    def _name(self, name: str) -> str:
        return f"{self.url}/{name}"


def _age(answer: Mapping[str, Any]) -> float:
    """Seconds since an object was written, by the clock of the server that has written it."""
    date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    now = parsedate_to_datetime(date) if date else datetime.now(timezone.utc)
    written: datetime = answer["LastModified"]
    return max(0.0, (now - written).total_seconds())
