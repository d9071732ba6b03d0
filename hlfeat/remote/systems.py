"""fsspec's file systems, and what they say of an object."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from inspect import signature
from types import MethodType
from typing import Any

from hlfeat.audio.copies import Stamp
from hlfeat.errors import UsageError
from hlfeat.remote.urls import EXTRAS, is_web, scheme_of

CONNECT_SECONDS, READ_SECONDS = 10, 60  # after which a server that does not answer counts as out of reach
_MODULES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp"}  # by extra
# They print errors, with tracebacks, where nobody has asked for their logs.
_LOGS = ("asyncio", "fsspec", "s3fs", "gcsfs", "aiobotocore", "botocore", "aiohttp", "huggingface_hub", "google")

_file_systems: dict[tuple[int, str], Any] = {}  # by process and scheme: none of them may be used after a fork


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object, as a listing has it.

    Attributes:
        url: of it.
        size: in bytes; None where the server does not say.
        modified: in nanoseconds since 1970; None where the server does not say.
        tag: the entity tag, or what takes its place; None where the server does not say.
        is_folder: whether it is none, but there are objects below it.
    """

    url: str
    size: int | None
    modified: int | None = None
    tag: str | None = None
    is_folder: bool = False

    @property
    def stamp(self) -> Stamp | None:
        """Size and modification time; None where the server does not say the size."""
        return None if self.size is None else (self.size, self.modified)


def need_installed(scheme: str) -> None:
    """Raises UsageError where what URLs of this scheme are read by is not installed."""
    extra = EXTRAS[scheme]
    try:
        installed = all(find_spec(name) is not None for name in ("fsspec", _MODULES[extra]))
    except ValueError:  # a module that is half there
        installed = False
    if not installed:
        raise UsageError(f"{scheme}:// needs pip install 'hlfeat[{extra}]'")


def file_system(url: str) -> Any:
    """fsspec's file system for a URL, one for each process. It caches no listing and tries nothing again.

    Raises UsageError where what it needs is not installed.
    """
    scheme = scheme_of(url)
    assert scheme is not None, url
    key = os.getpid(), scheme
    if key not in _file_systems:
        need_installed(scheme)
        _file_systems[key] = _open_file_system(scheme)
    return _file_systems[key]


def _open_file_system(scheme: str) -> Any:
    for name in _LOGS:
        logging.getLogger(name).addHandler(logging.NullHandler())
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        import fsspec

        if scheme == "s3":
            timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
            config = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 32, **timeouts, **_sent_once()}
            options |= {"config_kwargs": config, "max_concurrency": 1}
        elif is_web(f"{scheme}://"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
            options |= {"client_kwargs": {"timeout": timeout, "trust_env": True}}  # netrc, and proxies
        elif EXTRAS[scheme] == "gs":
            options["timeout"] = READ_SECONDS
        else:
            _silence_hub()
        system = fsspec.filesystem(scheme, **options)
    except ImportError as e:
        raise UsageError(f"{scheme}:// needs pip install 'hlfeat[{EXTRAS[scheme]}]'") from e
    if scheme == "s3":
        system.retries = 1  # tries, of which one is all: `Retries` makes more
    elif EXTRAS[scheme] == "gs":
        once = getattr(type(system)._request, "__wrapped__", None)  # it is decorated to try six times
        if once is not None:
            system._request = MethodType(once, system)
    return system


def _sent_once() -> dict[str, Any]:
    """Options of aiobotocore, by which aiohttp sends no request again by itself.

    It does so where a connection is closed that was used before. A machine that wakes up would at once write what it
    was about to write hours ago, and nobody could ask whether that may be written still.
    """
    from aiobotocore.config import AioConfig
    from aiobotocore.httpsession import AIOHTTPSession

    class SentOnce(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: Any) -> Any:
            session = await super()._get_session(proxy_url)
            session._retry_connection = False
            return session

    known = "http_session_cls" in signature(AioConfig.__init__).parameters
    return {"http_session_cls": SentOnce} if known else {}


def _silence_hub() -> None:
    """It warns of each request that it makes again, on standard error, with the URL."""
    with suppress(ImportError, AttributeError):
        from huggingface_hub.utils import logging as hub

        if "HF_HUB_VERBOSITY" not in os.environ:
            hub.set_verbosity_error()  # type: ignore[no-untyped-call]


def described(url: str, info: Mapping[str, Any]) -> RemoteObject:
    """What a file system, or an answer of a server, says of an object."""
    size, tag = info.get("size"), info.get("ETag") or info.get("etag") or info.get("generation")
    is_folder = info.get("type") == "directory"
    tag = None if tag is None else str(tag)
    return RemoteObject(url, None if size is None else int(size), _modified(info), tag, is_folder)


def _modified(info: Mapping[str, Any]) -> int | None:
    """When an object was changed, from what file systems call it."""
    value = next((info[key] for key in ("LastModified", "mtime", "updated", "last_modified") if info.get(key)), None)
    try:
        if isinstance(value, str):
            iso = value[:4].isdecimal()
            value = datetime.fromisoformat(value.replace("Z", "+00:00")) if iso else parsedate_to_datetime(value)
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            return int(value.timestamp()) * 10**9
        return None if value is None else int(value) * 10**9
    except (ValueError, TypeError):
        return None


def split_s3(system: Any, url: str) -> tuple[str, str]:
    """Bucket and key of an S3 URL."""
    place = url.partition("://")[2]
    if place.startswith("arn:"):  # of an access point
        bucket, key, _ = system.split_path(url)
        return bucket, key
    bucket, _, key = place.partition("/")
    return bucket, key
