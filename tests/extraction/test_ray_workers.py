"""What is asked of Ray, and of machines without it; `pytest -m cluster` has the rest."""

from __future__ import annotations

import logging
import re
import signal
import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from hlfeat.errors import OutputError, UsageError
from hlfeat.extraction import ray_workers
from hlfeat.extraction.options import Options
from hlfeat.extraction.ray_guest import signals_kept, silenced
from hlfeat.extraction.ray_workers import RayWorkers, _tasks_on, check_address, gpus_of
from hlfeat.extraction.remote_part import TryAgainError
from hlfeat.partition import Part
from tests import helpers


class FakeRay:
    """A cluster of one node, on which a task has ended with an exception."""

    class exceptions:  # noqa: N801  as Ray calls it
        class RayError(Exception): ...

        class TaskCancelledError(RayError): ...

        class RayTaskError(RayError):
            def __init__(self, cause: BaseException | None) -> None:
                self.cause = cause

    def __init__(self, cause: BaseException | None = None) -> None:
        self.cause, self.is_down = cause, False
        self.printed: list[object] = []
        self._private = SimpleNamespace(
            utils=SimpleNamespace(set_sigterm_handler=lambda handler: signal.signal(signal.SIGTERM, handler)),
            worker=SimpleNamespace(print_to_stdstream=lambda data: self.printed.append(data)),
        )

    def is_initialized(self) -> bool:
        return False

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def wait(self, refs: list[str], **_: object) -> tuple[list[str], list[str]]:
        return refs, []

    def get(self, ref: str, timeout: float) -> object:
        raise self.exceptions.RayTaskError(self.cause)

    def shutdown(self) -> None:
        self.is_down = True


@pytest.mark.parametrize(
    ("devices", "cluster_has", "expected"),
    [
        (["auto"], True, 1), (["auto"], False, 0), (["cpu"], True, 0), (["cpu", "cpu"], True, 0), (["cuda"], False, 1),
        (["cuda:0"], True, 1), (["cuda:0", "cuda:1"], True, 2), (["cuda:0", "cuda:0"], True, 1),
    ],
)  # fmt: skip
def test_how_many_gpus_a_part_takes(devices, cluster_has, expected):
    assert gpus_of(devices, cluster_has) == expected


@pytest.mark.parametrize("devices", [["cuda:1"], ["cuda:0", "cuda:2"]])
def test_gpus_that_no_part_has(devices):
    with pytest.raises(UsageError, match=r"^device cuda:[12]: expected cuda"):
        gpus_of(devices, True)


def test_how_many_parts_a_node_does_at_once():
    assert _tasks_on({"CPU": 64.0, "GPU": 4.0}, 8, 1) == 4
    assert _tasks_on({"CPU": 64.0, "GPU": 4.0}, 8, 0) == 8
    assert _tasks_on({"CPU": 7.0}, 8, 0) == 0
    assert _tasks_on({}, 1, 1) == 0


def test_without_ray(clips, tmp_path, invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = invoke("extract", clips, "-o", tmp_path / "out", "--on", "ray")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--on ray: needs Ray: pip install 'hlfeat[ray]'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["ray://head:10001", "head", ":6379", "head:port", "head:0", "head:99999"])
def test_an_address_that_is_not_a_nodes(clips, tmp_path, invoke, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    done = invoke("extract", clips, "-o", tmp_path / "out", "--on", "ray")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "RAY_ADDRESS: expected HOST:PORT of a cluster that this machine is a node of" in done.stderr


def test_no_cluster_at_the_address(clips, tmp_path, invoke, monkeypatch):
    """Ray itself would try for minutes, during which no signal stops it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        done = invoke("extract", clips, "-o", tmp_path / "out", "--on", "ray")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no cluster answers there: Connection refused" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_cluster_at_the_address(host):
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((host.strip("[]"), 0))
        listening.listen()
        check_address(f"{host}:{listening.getsockname()[1]}")
    for without in ("local", "auto"):
        check_address(without)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:1", "^device cuda:1: expected cuda"),
        ("cuda", "^device cuda: expected 1 GPU, and Ray finds 0 on this machine; RAY_ADDRESS names a cluster$"),
        ("cuda:0,cuda:1", "^device cuda:0,cuda:1: expected 2 GPUs, and Ray finds 0 on this machine"),
    ],
)
def test_a_connection_that_was_made_is_ended_where_no_part_can_run(monkeypatch, device, message):
    """Parts would wait for ever for a GPU of this machine alone; a cluster may get a node that has one."""
    ray = FakeRay()
    monkeypatch.setattr(ray_workers, "_import_ray", lambda address: ray)
    monkeypatch.setattr(ray_workers, "_connect", lambda *_: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=message):
        RayWorkers(Options(device=device, on="ray"))
    assert ray.is_down


def test_a_cluster_without_gpus_may_get_one(monkeypatch):
    ray = FakeRay()
    monkeypatch.setattr(ray_workers, "_import_ray", lambda address: ray)
    monkeypatch.setattr(ray_workers, "_connect", lambda *_: None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    workers = RayWorkers(Options(device="cuda", on="ray"))
    assert (workers.capacity, ray.is_down) == (0, False)
    workers.close()
    assert ray.is_down


@pytest.mark.parametrize("has_function", [True, False])
def test_a_signal_while_ray_starts_is_this_process_own(has_function):
    """Ray would answer it by `sys.exit(15)`, without a word; of a version that asks in another way, after its start."""
    ray, signals = FakeRay(), []
    ask = ray._private.utils.set_sigterm_handler
    if not has_function:
        del ray._private.utils.set_sigterm_handler
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        with signals_kept(ray):
            getattr(ray._private.utils, "set_sigterm_handler", ask)(lambda number, _: sys.exit(number))
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            if has_function:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # as the command does at the first signal
        assert signals == [signal.SIGTERM]
        assert not has_function or signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupted)
    assert not has_function or ray._private.utils.set_sigterm_handler is ask


def test_ray_prints_nothing_as_long_as_it_is_a_guest():
    ray, logger = FakeRay(), logging.getLogger("ray")
    level = logger.level
    with silenced(ray):
        ray._private.worker.print_to_stdstream({"lines": ["a worker died"]})
        assert logger.level == logging.ERROR
    ray._private.worker.print_to_stdstream("of the caller's tasks")
    assert (ray.printed, logger.level) == (["of the caller's tasks"], level)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (TryAgainError("full (on moon)"), r"^full \(on moon\); tried 4 times$"),
        (ValueError("one\ntwo\n"), "^ValueError: two$"),
        (MemoryError(), "^MemoryError$"),
    ],
)
def test_what_a_task_raised(monkeypatch, cause, message):
    ray = FakeRay(cause)
    monkeypatch.setattr(ray_workers, "_import_ray", lambda address: ray)
    monkeypatch.setattr(ray_workers, "_connect", lambda *_: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    workers = RayWorkers(Options(device="cpu", on="ray"))
    workers._running["a task"] = Part(2, 1)
    ((part, error),) = workers.finished(0)
    assert (part, type(error)) == (Part(2, 1), OutputError)
    assert re.search(message, str(error))


def test_ray_is_named_in_one_module():
    modules = [p for p in (helpers.ROOT / "hlfeat").rglob("*.py") if "import ray" in p.read_text()]
    assert [p.name for p in modules] == ["ray_workers.py"]
