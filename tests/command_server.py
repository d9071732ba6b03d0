"""The `hlfeat` command without the seconds that it takes to import torch and others.

One process imports them and waits. Each command is a fork of it, which takes over the caller's streams, folder and
environment and does what `python -m hlfeat` does. `install` puts a client named `hlfeat` into a folder, which
a shell finds through PATH like the real command.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from contextlib import suppress
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)])
socket.send_fds(server, [request.encode()], [0, 1, 2])
sys.exit(int(server.recv(16) or 70))  # nothing comes if the command crashed
"""


def install(folder: Path, address: Path) -> None:
    """Write the client into `folder`."""
    client = folder / "hlfeat"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)


def start(address: Path) -> subprocess.Popen[bytes]:
    """Start the server and wait until it listens; end it with `terminate()`."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", __name__, str(address)]
    server = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return server


def serve(address: str) -> None:
    """Fork for every request, for ever."""
    import matplotlib.figure  # noqa: F401

    import hlfeat

    for name in hlfeat.__all__:  # which imports torch, torchaudio, soundfile, ... once for all commands
        getattr(hlfeat, name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks: the client gets the exit status
    gc.freeze()  # or the first collection of a fork would copy every page
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        data, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if os.fork() == 0:
            listener.close()
            connection.send(b"%d" % run(streams, *json.loads(data)))
            os._exit(0)
        for stream in streams:
            os.close(stream)
        connection.close()


def run(streams: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """The command in this fork; its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.modules["__main__"] = types.ModuleType("__main__")  # processes that a command starts must not import this file
    status: object = 0
    try:
        runpy.run_module("hlfeat", run_name="__main__")
    except SystemExit as e:
        status = e.code
    except BaseException:
        traceback.print_exc()
        status = 1
    # what the interpreter does at its end, but without freeing all objects of torch, which takes half a second
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return status if isinstance(status, int) else 0 if status is None else 1


if __name__ == "__main__":
    serve(sys.argv[1])
