"""Other processes that compute, so that something can be measured on a machine that is busy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# A process multiplies matrices in one thread. It ends when its standard input does, however its parent has ended.
_PROGRAM = """
import os, sys, threading
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
import numpy
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
x = numpy.eye(256, dtype="float32")
x @ x
print("ready", flush=True)
while True:
    x @ x
"""

PATIENCE = 5.0  # seconds for a process to end by itself


@contextmanager
def busy_processes(number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes compute inside the context, and none is left after it.

    Raises RuntimeError if one of them does not start, or ends too early.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is for this process, which ends them
                )
            )
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != b"ready":
                raise RuntimeError("a process that was to keep the machine busy did not start")
        yield processes
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("a process that was to keep the machine busy has ended too early")
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            process.wait(PATIENCE)
