"""A web server on loopback that sends files, whole or in part, each after a while.

`python -m tests.remote.web_server FOLDER SECONDS` prints its address, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import base64
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote

MODIFIED = formatdate(1_700_000_000, usegmt=True)


class WebServer:
    """The server.

    Args:
        read: the bytes of a file by its path and query (`/get?key=1`), or by its path (`/a.wav`); None where there is
            none.
        seconds: before each answer.

    Attributes:
        ranges: whether it sends parts of files.
        password: of everybody, with which alone it answers.
        status: of the next answers, by a text in the path and query; each is used once.
        requests: paths and queries, as they came.
    """

    def __init__(self, read: Callable[[str], bytes | None], seconds: float = 0.0) -> None:
        self._read, self._seconds = read, seconds
        self.ranges, self.password = True, ""
        self.status: list[tuple[str, int]] = []
        self.requests: list[str] = []
        self.address = ""

    async def serve(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready()
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                await asyncio.sleep(self._seconds)
                target = head.split(" ", 2)[1]
                self.requests.append(target)
                writer.writelines(self._answer(target, head))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, target: str, head: str) -> list[bytes]:
        wrong = next((rule for rule in self.status if rule[0] in target), None)
        if wrong is not None:
            self.status.remove(wrong)
            return _message(wrong[1])
        login = base64.b64encode(f"ann:{self.password}".encode()).decode()
        if self.password and f"Basic {login}" not in head:
            return _message(401)
        data = self._read(unquote(target))
        if data is None:
            data = self._read(unquote(target.partition("?")[0]))
        if data is None:
            return _message(404)
        span = re.search(r"^Range: bytes=(\d+)-(\d*)\r$", head, re.IGNORECASE | re.MULTILINE)
        if span is None or not self.ranges:
            return _message(200, data)
        start, end = int(span[1]), min(int(span[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return _message(416)
        return _message(206, data[start:end], f"Content-Range: bytes {start}-{end - 1}/{len(data)}\r\n")


def _message(status: int, data: bytes = b"", more: str = "") -> list[bytes]:
    head = f"HTTP/1.1 {status} Because\r\nContent-Length: {len(data)}\r\nLast-Modified: {MODIFIED}\r\n{more}\r\n"
    return [head.encode(), data]


@contextmanager
def serving(files: Mapping[str, bytes], seconds: float = 0.0) -> Iterator[WebServer]:
    """A server of these files, in a thread."""
    server, loop, ready = WebServer(files.get, seconds), asyncio.new_event_loop(), threading.Event()

    def run() -> None:
        task = loop.create_task(server.serve(ready.set))
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(10)


def main() -> None:
    folder, held = Path(sys.argv[1]), dict[str, bytes]()

    def read(path: str) -> bytes | None:
        if path not in held and (folder / path[1:]).is_file():
            held[path] = (folder / path[1:]).read_bytes()
        return held.get(path)

    server = WebServer(read, float(sys.argv[2]))
    threading.Thread(target=lambda: (sys.stdin.read(), sys.exit()), daemon=True).start()
    asyncio.run(server.serve(lambda: print(server.address, flush=True)))


if __name__ == "__main__":
    main()
