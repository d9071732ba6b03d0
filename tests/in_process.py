"""The `hlfeat` command as a call in this process, whose state is the same afterwards."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hlfeat.cli.app import main


def invoke(*args: object, cwd: Path | None = None, input: str = "") -> subprocess.CompletedProcess[str]:
    """What `subprocess.run(["hlfeat", *args], capture_output=True, text=True)` returns."""
    arguments = ["hlfeat", *map(str, args)]
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(input.encode())
        stdin.seek(0)
        with _streams(stdin.fileno(), stdout.fileno(), stderr.fileno()), _state(arguments, cwd):
            try:
                main()
            except SystemExit as e:
                code = int(e.code or 0)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(arguments, code, *texts)


@contextmanager
def _streams(*descriptors: int) -> Iterator[None]:
    """Standard input, output and error become these files, for Python and for libraries written in C."""
    kept = [os.dup(number) for number in range(3)]
    before = sys.stdin, sys.stdout, sys.stderr
    for stream in before[1:]:
        stream.flush()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    opened = [open(number, mode, closefd=False) for number, mode in enumerate("rww")]
    sys.stdin, sys.stdout, sys.stderr = opened
    try:
        yield
    finally:
        for stream in {sys.stdout, *opened}:  # the command may have put another one in the place of sys.stdout
            stream.close()
        sys.stdin, sys.stdout, sys.stderr = before
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
            os.close(descriptor)


@contextmanager
def _state(arguments: list[str], cwd: Path | None) -> Iterator[None]:
    """Arguments and folder of the call; afterwards those before it, and whatever else the command sets."""
    log = logging.getLogger("hlfeat")
    before = sys.argv, os.getcwd(), log.level, log.handlers[:], warnings.showwarning, torch.get_num_threads()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    sys.argv = arguments
    os.chdir(cwd or before[1])
    try:
        yield
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)
        sys.argv, _, level, log.handlers[:], warnings.showwarning, threads = before
        log.setLevel(level)
        torch.set_num_threads(threads)
        os.chdir(before[1])
