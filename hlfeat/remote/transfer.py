"""The bytes of an object, as they come. What is cut goes on where it was, as long as the object is the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn, Protocol

from hlfeat.remote.errors import LocalError, RemoteError, explain
from hlfeat.remote.retries import Retries
from hlfeat.remote.systems import RemoteObject, described, file_system, split_s3
from hlfeat.remote.urls import is_web, scheme_of, shown_url
from hlfeat.remote.waiting import result_of

_PIECE = 16 << 20  # bytes: after so many, a connection may break as often as it may in the beginning
_CHUNK = 1 << 18
_CHANGED = "the object was changed while it was read"
_OTHER_PART = "its server sends another part than it was asked for"
_DECODED = frozenset({"gzip", "deflate", "br", "zstd"})  # what aiohttp decodes, asked for or not


class Sink(Protocol):
    """Where bytes go, such as a CopyWriter. Called by fsspec's thread."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    def write(self, data: bytes) -> None: ...

    def restart(self) -> None:
        """Forget what was written: the server sends everything anew."""


class BytesSink:
    """Holds what comes in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()


def transfer(url: str, sink: Sink, start: int | None, end: int | None, retries: Retries) -> RemoteObject:
    """Bring an object, or some of its bytes, into a sink. Returns what the server says of the object.

    Args:
        sink: that is empty.
        start, end: of the bytes; None: those of the object.

    Raises RemoteError, also where there are fewer bytes; what the sink raises.
    """
    job = _Transfer(url, sink, start, end, retries.stopped)
    while not job.complete:
        retries.call(job.go_on, url)
    return job.object or RemoteObject(url, None)  # nothing was asked for


class _Transfer:
    """An object on its way.

    Attributes:
        object: what the server says of it, once it has answered.
        complete: whether all of it is there.
    """

    def __init__(self, url: str, sink: Sink, start: int | None, end: int | None, stopped: Callable[[], bool]) -> None:
        self._url, self._sink, self._start, self._end, self._stopped = url, sink, start or 0, end, stopped
        self.object: RemoteObject | None = None
        self.complete = end is not None and end == self._start
        self._whole = end is None and not start
        self._decoded = False  # whether bytes are counted after they were decoded, and not as the server counts them

    def go_on(self) -> None:
        """Ask for what is not there yet. A connection that breaks after much has come is no error: call it again."""
        before = self._sink.size
        system = file_system(self._url)
        try:
            if scheme_of(self._url) == "s3":
                result_of(system.loop, self._from_s3(system), self._stopped)
            elif is_web(self._url):
                result_of(system.loop, self._from_web(system), self._stopped)
            else:
                self._in_pieces(system)
            self._check_length()
        except LocalError:
            raise
        except Exception as e:
            if self._sink.size < before + _PIECE or explain(e).code != "unreachable":
                raise

    async def _from_s3(self, system: Any) -> None:
        bucket, key = split_s3(system, self._url)
        span = self._range()
        answer = await system._call_s3("get_object", Bucket=bucket, Key=key, **({"Range": span} if span else {}))
        body = answer["Body"]
        try:
            size = _whole_size(answer.get("ContentRange"), answer.get("ContentLength"))
            part = _first_byte(answer["ContentRange"]) if answer.get("ContentRange") is not None else None
            self._identify(described(self._url, {**answer, "size": size}), part)
            while data := await body.read(_CHUNK):
                self._take(data)
        finally:
            body.close()

    async def _from_web(self, system: Any) -> None:
        session = await system.set_session()
        span = self._range()
        headers = {"Accept-Encoding": "identity", **({"Range": span} if span else {})}
        async with session.get(web_url(self._url), headers=headers) as answer:
            if answer.status == 416 and self._start + self._sink.size:
                raise RemoteError("unreadable", f"it ends before byte {self._start + self._sink.size}")
            _check_status(answer)
            given = answer.headers.get("Content-Range")
            part = _first_byte(given or "") if answer.status == 206 and (span or given) else None
            self._decoded = _is_decoded(answer.headers)
            if self._decoded and part is not None:
                self._give_up("its server sends parts of it compressed")
            self._identify(web_object(self._url, answer.status, answer.headers), part)
            async for data in answer.content.iter_chunked(_CHUNK):
                self._take(data)

    def _in_pieces(self, system: Any) -> None:
        """Of a file system that tells what an object is and what is in it by different requests."""
        self._identify(described(self._url, system.info(self._url)), self._start + self._sink.size)
        assert self.object is not None
        end = self.object.size if self._end is None else self._end
        if end is None:
            self._take(system.cat_file(self._url))
            return
        while (at := self._start + self._sink.size) < end and not self._stopped():
            stop = min(end, at + _PIECE)
            data = system.cat_file(self._url, start=at, end=stop)
            self._take(data[: stop - at])
            if len(data) < stop - at:
                return

    def _range(self) -> str | None:
        """The header that asks for what is not there yet; None: for all."""
        at = self._start + self._sink.size
        if self._whole and (self._decoded or not at):
            return None
        return f"bytes={at}-{'' if self._end is None else self._end - 1}"

    def _identify(self, found: RemoteObject, part: int | None) -> None:
        """Note what the object is, and prepare for an answer that begins where the bytes that are there end.

        Args:
            part: the byte of the object with which the answer begins; None: the answer is the whole object.
        """
        known = self.object
        if known is not None and (known.size, known.modified, known.tag) != (found.size, found.modified, found.tag):
            self._give_up(_CHANGED)
        if part is not None and part != self._start + self._sink.size:
            self._give_up(_OTHER_PART)
        self.object = found
        if part is None:
            if not self._whole:
                raise RemoteError("unreadable", "its server sends whole files only, and not the part that is needed")
            if self._sink.size:
                self._sink.restart()

    def _give_up(self, why: str) -> NoReturn:
        """Raises RemoteError. What is there is of no use; if it is the beginning of all, another try may begin anew."""
        if not self._whole:
            raise RemoteError("unreadable", why)
        self.object = None
        self._sink.restart()
        raise RemoteError("unreachable", why)

    def _take(self, data: bytes) -> None:
        try:
            self._sink.write(data)
        except Exception as e:
            raise LocalError(e) from e

    def _check_length(self) -> None:
        assert self.object is not None
        end = self.object.size if self._end is None else self._end
        if end is not None and self._sink.size > end - self._start:
            self._give_up(_OTHER_PART)
        if end is not None and self._sink.size != end - self._start:
            raise RemoteError("unreachable", f"got {self._sink.size} of {end - self._start} bytes")
        self.complete = True


# --- web servers -----------------------------------------------------------------------------------------------------


def web_url(url: str) -> Any:
    """The URL as aiohttp takes it: one that is encoded already, such as one that is signed, stays as it is."""
    import yarl

    return yarl.URL(url, encoded="%" in url and url.isascii() and not re.search(r"\s|%(?![0-9A-Fa-f]{2})", url))


def web_object(url: str, status: int, headers: Mapping[str, str]) -> RemoteObject:
    """What the headers of an answer say of an object."""
    size = None
    if not _is_decoded(headers):
        size = _whole_size(headers.get("Content-Range"), None)
        if size is None and status != 206:
            with suppress(TypeError, ValueError):
                size = int(headers["Content-Length"]) if "Content-Length" in headers else None
    return described(url, {"size": size, "LastModified": headers.get("Last-Modified"), "ETag": headers.get("ETag")})


def _whole_size(content_range: str | None, content_length: int | None) -> int | None:
    """The size of an object, from the headers of an answer that may have a part of it."""
    if content_range is None:
        return content_length
    size = content_range.rpartition("/")[2]
    return int(size) if size.isdecimal() else None


def _first_byte(content_range: str) -> int:
    """The byte of an object with which an answer begins, by its header; -1 where that does not say it."""
    found = re.match(r"\s*bytes\s+(\d+)-", content_range, re.IGNORECASE | re.ASCII)
    return int(found[1]) if found else -1


def _is_decoded(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "").lower() in _DECODED


def _check_status(answer: Any) -> None:
    """Raises what says that an answer has not the bytes that were asked for."""
    answer.raise_for_status()
    if answer.status not in (200, 203, 206):  # of a redirection without a place, of what is still made, ...
        raise RemoteError("unreachable" if answer.status == 202 else "unreadable", f"{answer.status} {answer.reason}")


async def _ask_web(system: Any, url: str) -> RemoteObject:
    session = await system.set_session()
    headers = {"Accept-Encoding": "identity", "Range": "bytes=0-0"}
    async with session.get(web_url(url), headers=headers) as answer:
        if answer.status == 416:  # of an empty file
            return RemoteObject(url, 0)
        _check_status(answer)
        return web_object(url, answer.status, answer.headers)


def stat_web(url: str, retries: Retries) -> RemoteObject:
    """What a web server says of a file. By GET, as signed URLs often allow nothing else. Raises RemoteError."""

    def request() -> RemoteObject:
        system = file_system(url)
        return result_of(system.loop, _ask_web(system, url), retries.stopped)

    return replace(retries.call(request, url), url=shown_url(url))
