"""The objects right in a folder at a URL, and some bytes of one that is still the object that was listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hlfeat.remote.errors import RemoteError
from hlfeat.remote.objects import listed_by_s3, read
from hlfeat.remote.retries import Retries
from hlfeat.remote.systems import RemoteObject, file_system, split_s3
from hlfeat.remote.urls import scheme_of
from hlfeat.remote.waiting import result_of

_DEFAULT = Retries()


def list_folder(
    url: str, retries: Retries = _DEFAULT, wanted: Callable[[str], object] = lambda name: True
) -> list[RemoteObject]:
    """The objects right in a folder, in the order of names, without those in folders below it; none if there is none.

    Args:
        wanted: whether an object of this name is; of others, of which there may be millions, nothing is kept.

    Raises RemoteError: "missing" of a bucket that is not there.
    """
    listed = _s3_folder(url, retries) if scheme_of(url) == "s3" else _folder(url, retries)
    kept = (entry for entry in listed if wanted(entry.url.rpartition("/")[2]))
    return sorted(kept, key=lambda entry: entry.url)


def _s3_folder(url: str, retries: Retries) -> Iterator[RemoteObject]:
    """By S3's API: s3fs would list the folder above an empty one too, which may have a million objects."""
    system = file_system(url)
    bucket, key = split_s3(system, url.rstrip("/"))
    place = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}
    top = f"{url.rstrip('/')}/".removesuffix(place["Prefix"])
    for info in listed_by_s3(system, url, place, retries):
        if info["Key"] != place["Prefix"]:  # the empty object that some programs make for a folder
            yield RemoteObject(f"{top}{info['Key']}", info["Size"], tag=info.get("ETag"))


def _folder(url: str, retries: Retries) -> Iterator[RemoteObject]:
    top = url.rstrip("/") + "/"

    def request() -> list[dict[str, Any]]:
        try:
            infos: list[dict[str, Any]] = file_system(url).ls(top, detail=True)
        except FileNotFoundError:
            return []
        return infos

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
    return retries.call(partial(_read_if_same, url, start, end, tag, retries), url)


def _read_if_same(url: str, start: int, end: int, tag: str, retries: Retries) -> bytes:
    system = file_system(url)
    bucket, key = split_s3(system, url)

    async def request() -> bytes:
        span = f"bytes={start}-{end - 1}"
        answer = await system._call_s3("get_object", Bucket=bucket, Key=key, Range=span, IfMatch=tag)
        try:
            data: bytes = await answer["Body"].read()
        finally:
            answer["Body"].close()
        return data

    data = result_of(system.loop, request(), retries.stopped)
    if len(data) != end - start:
        raise RemoteError("unreachable", f"got {len(data)} of {end - start} bytes")
    return data
