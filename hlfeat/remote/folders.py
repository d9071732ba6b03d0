"""The objects right in a folder at a URL, and some bytes of one that is still the object that was listed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from hlfeat.remote.objects import RemoteObject, file_system, read
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.urls import scheme_of

_DEFAULT = Retries()


def list_folder(url: str, retries: Retries = _DEFAULT) -> list[RemoteObject]:
    """The objects right in a folder, in the order of names, without those in folders below it; none if there is none.

    Raises RemoteError: "missing" of a bucket that is not there.
    """
    listed = _s3_folder(url, retries) if scheme_of(url) == "s3" else _folder(url, retries)
    return sorted(listed, key=lambda found: found.url)


def _s3_folder(url: str, retries: Retries) -> Iterator[RemoteObject]:
    """By S3's API: s3fs would list the folder above an empty one too, which may have a million objects."""
    bucket, _, key = url.partition("://")[2].strip("/").partition("/")
    place = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}
    more: dict[str, str] | None = {}
    while more is not None:
        page = retries.call(partial(file_system(url).call_s3, "list_objects_v2", **place, **more), url)
        for info in page.get("Contents", []):
            if info["Key"] != place["Prefix"]:  # the empty object that some programs make for a folder
                yield RemoteObject(f"s3://{bucket}/{info['Key']}", info["Size"], tag=info.get("ETag"))
        more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None


def _folder(url: str, retries: Retries) -> Iterator[RemoteObject]:
    top = url.rstrip("/") + "/"

    def request() -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = file_system(url).ls(top, detail=True)
        except FileNotFoundError:
            return []
        return found

    for info in retries.call(request, top):
        name = info["name"].rpartition("/")[2]
        if info.get("type") != "directory" and name:
            yield RemoteObject(top + name, info.get("size"))  # what it has of tags differs between file systems


def read_range(url: str, start: int, end: int, retries: Retries = _DEFAULT, tag: str | None = None) -> bytes:
    """Bytes `start` to `end` (not included) of an object, in one request.

    With a tag, an object in S3 is read only if it still has that one; else the error says `conflict`. Raises
    RemoteError.
    """
    if start == end:
        return b""
    if tag is None or scheme_of(url) != "s3":
        return read(url, start, end, retries)
    return retries.call(partial(_read_if_same, url, start, end, tag), url)


def _read_if_same(url: str, start: int, end: int, tag: str) -> bytes:
    from fsspec.asyn import sync

    system = file_system(url)
    bucket, _, key = url.partition("://")[2].partition("/")

    async def request() -> bytes:
        span = f"bytes={start}-{end - 1}"
        answer = await system._call_s3("get_object", Bucket=bucket, Key=key, Range=span, IfMatch=tag)
        try:
            data: bytes = await answer["Body"].read()
        finally:
            answer["Body"].close()
        return data

    data: bytes = sync(system.loop, request)
    if len(data) != end - start:
        raise RemoteError("unreachable", f"got {len(data)} of {end - start} bytes")
    return data
