"""A process that has imported torch, and forks to run the command: a run starts in milliseconds instead of seconds.

What runs is the console script's own entry point, in a process of its own with its own streams, working directory, exit
status and threads. Only the start of the interpreter and the import of the libraries are shared.

The protocol, over a Unix socket: a line of JSON with `argv` and `cwd`, sent together with the descriptors for standard
input, output and error; then the answers, the process's id as a line, and its exit status as another.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from threading import Thread

LIBRARIES = ("numpy", "torch", "torchaudio", "soundfile", "safetensors.torch", "pydantic", "yaml", "typer", "tqdm")


class CommandServer:
    """Runs the command in forks of one process; to be closed at the end."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONSAFEPATH": ""},
        )
        theirs.close()
        self._answers = self._socket.makefile("r")

    def run(
        self, *args: object, cwd: Path | None = None, input: str | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run(["hlfeat", *args], capture_output=True, text=True)`."""
        argv = ["hlfeat", *map(str, args)]
        (stdin, writer), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        request = json.dumps({"argv": argv, "cwd": os.fspath(cwd or os.getcwd())}) + "\n"
        socket.send_fds(self._socket, [request.encode()], [stdin, stdout, stderr])
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
        outputs = [_Reader(out), _Reader(err)]
        feeder = Thread(target=_feed, args=(writer, (input or "").encode()))
        feeder.start()
        pid = int(self._answers.readline())
        self._socket.settimeout(timeout)
        try:
            status = int(self._answers.readline())
        except TimeoutError as e:
            os.kill(pid, 9)
            raise subprocess.TimeoutExpired(argv, timeout) from e
        finally:
            self._socket.settimeout(None)
        feeder.join()
        return subprocess.CompletedProcess(argv, status, *(reader.text() for reader in outputs))

    def close(self) -> None:
        self._socket.close()
        self._answers.close()
        self._process.wait()


class _Reader(Thread):
    """Collects all that is written to a pipe."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor, self._data = descriptor, b""
        self.start()

    def run(self) -> None:
        with open(self._descriptor, "rb") as f:
            self._data = f.read()

    def text(self) -> str:
        self.join()
        return self._data.decode().replace("\r\n", "\n").replace("\r", "\n")  # as text mode does


def _feed(descriptor: int, data: bytes) -> None:
    try:
        with open(descriptor, "wb") as f:
            f.write(data)
    except BrokenPipeError:
        pass


def _serve(requests: socket.socket) -> None:
    """Fork for each request; returns in the forks, where the command is to run, and ends where there are no more."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not data:
            os._exit(0)
        while not data.endswith(b"\n"):
            data += requests.recv(1 << 20)
        request = json.loads(data)
        child = os.fork()
        if child == 0:
            requests.close()
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.chdir(request["cwd"])
            sys.argv = request["argv"]
            sys.stdin, sys.stdout, sys.stderr = (_stream(n, "r" if n == 0 else "w") for n in range(3))
            return
        for descriptor in descriptors:
            os.close(descriptor)
        requests.sendall(f"{child}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        requests.sendall(f"{status}\n".encode())


def _stream(number: int, mode: str) -> object:
    errors = "backslashreplace" if number == 2 else "strict"
    return open(number, mode, encoding="utf-8", errors=errors, buffering=1 if number == 2 else -1)


def main() -> None:
    from importlib import import_module

    sys.path.pop(0)  # this folder
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # or the forks' collections would copy every page
    _serve(socket.socket(fileno=int(sys.argv[1])))
    status = 0
    try:
        from hlfeat.cli.app import main as command

        command()
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    # what the interpreter does at its end, without freeing every object of torch's first, which takes half a second
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
