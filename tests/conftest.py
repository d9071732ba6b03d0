"""Fixtures shared by all tests. A failing random test prints how to replay it."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from hlfeat.extraction import one_device
from hlfeat.extraction.worker_pool import ThreadPool
from tests import helpers, in_process
from tests.command_server import install, start
from tests.remote import object_server

# Tests run side by side, one a core: two threads each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONUNBUFFERED", None)  # with it, errors of full streams come earlier than they do to users

# Where there is no GPU, Triton's kernels are interpreted; it wants to know before it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
settings.register_profile("thorough", deadline=None, max_examples=500, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HLFEAT_TESTS", "default"))


def pytest_collection_finish() -> None:
    """What was imported stays: a collection need not look through it, nor a fork copy the memory that it is in."""
    gc.collect()
    gc.freeze()


Command = Callable[..., subprocess.CompletedProcess[str]]


def command() -> str:
    """The installed console script beside this interpreter."""
    found = shutil.which("hlfeat", path=str(Path(sys.executable).parent))
    assert found, "hlfeat is not installed in this environment: pip install -e '.[test]'"
    return found


@pytest.fixture(scope="session")
def command_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an `hlfeat` that starts in milliseconds (tests/command_server.py)."""
    folder = tmp_path_factory.mktemp("bin")
    server = start(folder / "server")
    install(folder, folder / "server")
    yield folder
    server.terminate()
    server.wait()


@pytest.fixture(scope="session")
def hlfeat(command_server: Path) -> Command:
    """Run the command as a process: hlfeat("extract", folder, "-o", out) -> CompletedProcess.

    With `env` it is the installed console script; otherwise a fork of a process that has imported torch.
    """

    def run(*args: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        program = command() if "env" in kwargs else str(command_server / "hlfeat")
        return subprocess.run(
            [program, *map(str, args)], capture_output=True, text=True, timeout=300, check=False, **kwargs
        )

    return run


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process, of which there are thousands, read clips in threads, as they do on a Mac.

    To fork a process as large as this one takes longer than such a run. Commands have processes, and so have tests of
    them, which are marked.
    """
    if request.node.get_closest_marker("processes") is None:
        monkeypatch.setattr(one_device, "make_pool", ThreadPool)


@pytest.fixture
def invoke() -> Command:
    """Run the command in this process, for cases that look at messages, files and exit codes: as `hlfeat`, but faster.

    Signals, streams and imports are those of a process, so cases about them use `hlfeat`.
    """
    return in_process.invoke


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of a dozen good clips: formats, rates, channels and lengths mixed, two folders deep."""
    return helpers.good_clips(tmp_path / "clips", 12)


@pytest.fixture(scope="session")
def _server() -> Iterator[object_server.ObjectServer]:
    with object_server.running() as server:
        yield server


@pytest.fixture
def server(_server: object_server.ObjectServer, monkeypatch: pytest.MonkeyPatch) -> object_server.ObjectServer:
    """An S3 server that is empty, and the environment in which it is found."""
    _server.reset()
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    return _server
