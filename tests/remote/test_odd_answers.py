"""Answers of web servers that are cut, compressed, of another part, or no file: never bytes of what is not the file."""

from __future__ import annotations

import gzip
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hlfeat.remote.errors import RemoteError
from hlfeat.remote.objects import read, stat
from hlfeat.remote.retries import Retries

DATA = os.urandom(1000)
PACKED = gzip.compress(DATA)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retries, "_wait", lambda *_: time.sleep(0.01))


def answer(data: bytes, status: str = "200 OK", cut: int | None = None, **headers: str) -> bytes:
    """An answer, of whose data only so many bytes come."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n{''.join(lines)}\r\n"
    return head.encode() + data[:cut]


def part(start: int, end: int, data: bytes = DATA, **headers: str) -> bytes:
    span = f"bytes {start}-{end - 1}/{len(data)}"
    return answer(data[start:end], "206 Partial Content", Content_Range=span, **headers)


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that gives these answers, one after the other, and the ranges that it is asked for."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = []
            while line := self.rfile.readline().strip():
                head.append(line.decode())
            asked.append(next((line.partition("=")[2] for line in head if line.startswith("Range")), ""))
            self.wfile.write(answers[min(len(asked), len(answers)) - 1])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/a.wav", asked
        server.shutdown()


MORE = answer(DATA[300:] + b"more", "206 Partial Content", Content_Range="bytes 300-999/1000", ETag='"1"')
CUT = answer(DATA, cut=300, ETag='"1"')


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        pytest.param([CUT, part(300, 1000, ETag='"1"')], ["", "300-"], id="goes on where it was cut"),
        pytest.param([CUT, answer(DATA, ETag='"1"')], ["", "300-"], id="begins anew, as the server has no parts"),
        pytest.param([CUT, part(300, 1000, ETag='"2"'), answer(DATA)], ["", "300-", ""], id="another object"),
        pytest.param([CUT, part(200, 1000, ETag='"1"'), answer(DATA)], ["", "300-", ""], id="another part"),
        pytest.param([part(100, 400), answer(DATA)], ["", ""], id="a part from its middle"),
        pytest.param([part(0, 400), part(400, 1000)], ["", "400-"], id="a part from its beginning"),
        pytest.param(
            [CUT, answer(DATA[300:], "206 Partial Content", ETag='"1"'), answer(DATA)], ["", "300-", ""], id="no range"
        ),
        pytest.param([CUT, MORE, answer(DATA)], ["", "300-", ""], id="too many bytes"),
        pytest.param([answer(PACKED, Content_Encoding="gzip")], [""], id="compressed"),
        pytest.param(
            [answer(PACKED, cut=900, Content_Encoding="gzip"), answer(PACKED, Content_Encoding="gzip")],
            ["", ""],
            id="compressed and cut",
        ),
        pytest.param([answer(b"", "520 Unknown"), answer(b"", "202 Accepted"), answer(DATA)], ["", "", ""], id="later"),
    ],
)
def test_the_file_comes(answers: list[bytes], asked: list[str]):
    with answering(*answers) as (url, found):
        assert read(url, retries=Retries(2)) == DATA
    assert found == asked


@pytest.mark.parametrize(
    ("answers", "code", "message"),
    [
        pytest.param([part(100, 400)], "unreachable", "another part than it was asked for", id="another part"),
        pytest.param([answer(b"", "302 Found")], "unreadable", "302 Found", id="a redirection without a place"),
        pytest.param([answer(b"a page", "300 Choices")], "unreadable", "300 Choices", id="a choice"),
        pytest.param([answer(b"", "204 No Content")], "unreadable", "204 No Content", id="no content"),
        pytest.param([answer(b"wait", "202 Accepted")], "unreachable", "202 Accepted", id="not yet"),
        pytest.param(
            [answer(b"", "302 Found", Location="ftp://ann:hidden@h/a.wav?token=hidden")],
            "unreachable",
            "ftp://h/a.wav",
            id="a redirection elsewhere",
        ),
    ],
)
def test_what_is_no_file(answers: list[bytes], code: str, message: str):
    with answering(*answers) as (url, _):
        for ask in (read, stat):
            if ask is stat and "206" in answers[0].decode("latin-1"):
                continue  # it looks at the size, which is right
            with pytest.raises(RemoteError) as e:
                ask(url, retries=Retries(1))  # type: ignore[operator]
            assert (e.value.code, message in str(e.value), "hidden" in str(e.value)) == (code, True, False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (part(100, 200), None),
        (part(0, 100), "another part"),
        (answer(DATA), "whole files only"),
        (part(100, 300), "another part"),
        (part(100, 200, Content_Encoding="gzip"), "compressed"),
    ],
)
def test_a_part_is_the_one_that_was_asked_for(given: bytes, message: str | None):
    with answering(given) as (url, asked):
        if message is None:
            assert read(url, 100, 200, Retries(1)) == DATA[100:200]
        else:
            with pytest.raises(RemoteError, match=message) as e:
                read(url, 100, 200, Retries(1))
            assert e.value.code == "unreadable"
    assert asked == ["100-199"]
