"""What there is at a URL, and its bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from hlfeat.errors import UsageError
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.urls import EXTRAS, scheme_of

_DEFAULT = Retries()
_file_systems: dict[tuple[int, str], Any] = {}  # by process and scheme: none of them may be used after a fork


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object, as a listing has it.

    Attributes:
        url: of it.
        size: in bytes; None where the server does not say.
        modified: in nanoseconds since 1970; None where the server does not say.
        tag: the entity tag, or what takes its place; None where the server does not say.
    """

    url: str
    size: int | None
    modified: int | None = None
    tag: str | None = None


def file_system(url: str) -> Any:
    """fsspec's file system for a URL, one for each process. It caches no listing and tries nothing again.

    Raises UsageError where what it needs is not installed.
    """
    scheme = scheme_of(url)
    assert scheme is not None, url
    key = os.getpid(), scheme
    if key not in _file_systems:
        _file_systems[key] = _open_file_system(scheme)
    return _file_systems[key]


def _open_file_system(scheme: str) -> Any:
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        import fsspec

        if scheme == "s3":
            options |= {"config_kwargs": {"retries": {"total_max_attempts": 1}}, "max_concurrency": 1}
        system = fsspec.filesystem(scheme, **options)
    except ImportError as e:
        extra = EXTRAS[scheme]
        raise UsageError(f"{scheme}:// needs pip install 'hlfeat[{extra}]'") from e
    if scheme == "s3":
        system.retries = 1  # tries, of which one is all: `Retries` makes more
    return system


def stat(url: str, retries: Retries = _DEFAULT) -> RemoteObject:
    """What the server says of an object. Raises RemoteError."""
    return _object(url, retries.call(lambda: file_system(url).info(url), url))


def read(url: str, start: int | None = None, end: int | None = None, retries: Retries = _DEFAULT) -> bytes:
    """The bytes of an object, or some of them. Raises RemoteError, also where there are fewer."""

    def request() -> bytes:
        data: bytes = file_system(url).cat_file(url, start=start, end=end)
        if start is not None and end is not None and len(data) != end - start:
            raise RemoteError("unreachable", f"got {len(data)} of {end - start} bytes")
        return data

    return retries.call(request, url)


def list_below(url: str, retries: Retries = _DEFAULT) -> Iterator[RemoteObject]:
    """All objects whose URLs begin with a URL and a `/`, in the order of names. Raises RemoteError."""
    top = url.rstrip("/") + "/"
    found = retries.call(lambda: file_system(url).find(top, detail=True), top)
    for path, info in sorted(found.items()):
        yield _object(_with_scheme(path, url), info)


def _with_scheme(path: str, like: str) -> str:
    """The URL of a path that a file system has listed, most of which leave the scheme out."""
    return path if scheme_of(path) else f"{like.partition('://')[0]}://{path.lstrip('/')}"


def _object(url: str, info: dict[str, Any]) -> RemoteObject:
    size, tag = info.get("size"), info.get("ETag") or info.get("etag") or info.get("generation")
    return RemoteObject(url, None if size is None else int(size), _modified(info), None if tag is None else str(tag))


def _modified(info: dict[str, Any]) -> int | None:
    """When an object was changed, from what file systems call it."""
    value = next((info[key] for key in ("LastModified", "mtime", "updated", "last_modified") if info.get(key)), None)
    try:
        if isinstance(value, str):
            iso = value[:4].isdecimal()
            value = datetime.fromisoformat(value.replace("Z", "+00:00")) if iso else parsedate_to_datetime(value)
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            return int(value.timestamp()) * 10**9
        return None if value is None else int(value * 10**9)
    except (ValueError, TypeError):
        return None
