"""What there is at a URL, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from hlfeat.audio.copies import Stamp
from hlfeat.remote.errors import RemoteError
from hlfeat.remote.retries import Retries
from hlfeat.remote.systems import RemoteObject, described, file_system, split_s3
from hlfeat.remote.transfer import BytesSink, stat_web, transfer
from hlfeat.remote.urls import is_web, scheme_of
from hlfeat.remote.waiting import result_of

__all__ = ["RemoteObject", "file_system", "list_below", "list_prefix", "read", "stamp_of_file", "stat"]

_DEFAULT = Retries()


def stat(url: str, retries: Retries = _DEFAULT) -> RemoteObject:
    """What the server says of an object, or of a folder: a web server has none. Raises RemoteError."""
    if is_web(url):
        return stat_web(url, retries)
    if scheme_of(url) == "s3":
        return _stat_s3(url, retries)
    return described(url, retries.call(lambda: file_system(url).info(url), url))


def stamp_of_file(url: str, retries: Retries = _DEFAULT) -> Stamp:
    """Size and modification time of a file. Raises RemoteError, also where its server does not say the size."""
    stamp = None if (info := stat(url, retries)).is_folder else info.stamp
    if stamp is None:
        raise RemoteError("unreadable", "expected a file whose size its server says")
    return stamp


def _stat_s3(url: str, retries: Retries) -> RemoteObject:
    """Ask for the object, then for one below it: errors of the first have no text, those of the second have."""
    system = file_system(url)
    bucket, key = split_s3(system, url)
    error: RemoteError | None = None
    if key and not key.endswith("/"):
        try:
            answer = retries.call(lambda: call_s3(system, "head_object", retries, Bucket=bucket, Key=key), url)
            return described(url, {**answer, "size": answer["ContentLength"]})
        except RemoteError as e:
            if e.code == "unreachable":
                raise
            error = e
    prefix = key and key.rstrip("/") + "/"
    try:
        listed = retries.call(
            lambda: call_s3(system, "list_objects_v2", retries, Bucket=bucket, Prefix=prefix, MaxKeys=1), url
        )
    except RemoteError as e:
        raise e if error is None or str(e) != "access is denied: Access Denied" else error from None
    if listed.get("KeyCount"):
        return RemoteObject(url, None, is_folder=True)
    raise error or RemoteError("missing", "there is nothing below it" if prefix else "the bucket is empty")


def read(url: str, start: int | None = None, end: int | None = None, retries: Retries = _DEFAULT) -> bytes:
    """The bytes of an object, or some of them. Raises RemoteError, also where there are fewer."""
    sink = BytesSink()
    transfer(url, sink, start, end, retries)
    return bytes(sink.data)


def list_below(url: str, retries: Retries = _DEFAULT) -> Iterator[RemoteObject]:
    """All objects whose URLs begin with a URL and a `/`, in the order of names. Raises RemoteError."""
    return list_prefix(url.rstrip("/") + "/", "", retries)


def list_prefix(folder: str, start: str = "", retries: Retries = _DEFAULT) -> Iterator[RemoteObject]:
    """All objects below a folder whose names there begin so, in the order of names.

    Args:
        folder: a URL that ends with `/`.
        start: of the names, for services that can look for them only; others list the folder.

    Raises RemoteError.
    """
    if scheme_of(folder) == "s3":
        return _list_s3(folder, start, retries)
    infos = retries.call(lambda: _find(folder), folder)
    return (described(_with_scheme(path, folder), info) for path, info in sorted(infos.items()))


def _list_s3(folder: str, start: str, retries: Retries) -> Iterator[RemoteObject]:
    system = file_system(folder)
    bucket, key = split_s3(system, folder)
    place = {"Bucket": bucket, "Prefix": key + start}
    top = folder.removesuffix(key)
    for info in listed_by_s3(system, folder, place, retries):
        yield described(top + info["Key"], {**info, "size": info["Size"]})


def listed_by_s3(system: Any, url: str, place: Mapping[str, str], retries: Retries) -> Iterator[Mapping[str, Any]]:
    """What S3 says of the objects in a place, in the order of their keys. Raises RemoteError.

    A page that fails is asked for again, and not the thousands of objects before it.

    Args:
        url: for the log.
        place: Bucket, Prefix and maybe Delimiter, as S3's API has them.
    """
    more: dict[str, str] | None = {}
    while more is not None:
        page = retries.call(partial(call_s3, system, "list_objects_v2", retries, **place, **more), url)
        yield from page.get("Contents", [])
        more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None


def call_s3(system: Any, call: str, retries: Retries, **arguments: Any) -> Any:
    """The answer of S3 to a call of its API. Raises what its file system does."""
    return result_of(system.loop, system._call_s3(call, **arguments), retries.stopped)


def _find(folder: str) -> dict[str, Any]:
    infos: dict[str, Any] = file_system(folder).find(folder, detail=True)
    return infos


def _with_scheme(path: str, like: str) -> str:
    """The URL of a path that a file system has listed, most of which leave the scheme out."""
    return path if scheme_of(path) else f"{like.partition('://')[0]}://{path.lstrip('/')}"
