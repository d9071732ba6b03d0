"""An S3 server for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote import object_server


@pytest.fixture(scope="session")
def _server() -> Iterator[object_server.ObjectServer]:
    with object_server.running() as server:
        yield server


@pytest.fixture
def server(_server: object_server.ObjectServer, monkeypatch: pytest.MonkeyPatch) -> object_server.ObjectServer:
    """A server that is empty, and the environment in which it is found."""
    _server.reset()
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    return _server
