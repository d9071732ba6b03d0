"""Parts that a Ray cluster does, whose processes and machines die: complete, with the bytes of parts done by hand.

pytest -m cluster       starts a cluster of two nodes on this machine
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import hlfeat
from hlfeat.config.loading import load_config
from hlfeat.extraction.options import Options
from hlfeat.partition import WHOLE
from tests import helpers
from tests.conftest import command
from tests.docs.test_jobs import file_of
from tests.extraction.runs import contents
from tests.helpers import eventually

pytestmark = pytest.mark.cluster

PARTS = 2
SETTINGS = ["output.shard_size=2", "frontend.n_filters=40"]
CONFIG = load_config("leaf", SETTINGS)  # slow enough to be at work still
TYPED = ["extract", "clips", "-c", "leaf", *(word for s in SETTINGS for word in ("--set", s))]
TYPED += ["--workers", "1", "--device", "cpu", "--on", "ray", "--parts", str(PARTS)]
ON_RAY = Options(on="ray", parts=PARTS, workers=1, quiet=True, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder: clips, and what parts by hand make of them (`by-hand`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("ray"))
        helpers.good_clips(Path("clips"), 40, longest=4.0)  # so many that a signal comes before the end
        Path("clips/d0/text.wav").write_text("no audio")
        for part in WHOLE.split(PARTS):
            options = Options(part=part, workers=2, quiet=True, device="cpu")
            hlfeat.extract(CONFIG, ["clips"], "by-hand", options)
        yield Path.cwd()


@pytest.fixture(scope="module")
def settings() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # it listens on loopback only
        patch.setenv("RAY_AUTH_TOKEN", uuid4().hex)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield patch


@pytest.fixture(scope="module")
def cluster(settings: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and another node, of one CPU each, as if they were two machines."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    settings.setenv("RAY_ADDRESS", cluster.address)
    cluster.other_node = cluster.add_node(**node)
    yield cluster
    settings.delenv("RAY_ADDRESS")
    cluster.shutdown()


def tasks(parent: int | None = None) -> dict[int, int]:
    """The processes of this module's workers that do a part, and which part; those of one parent, or all.

    A worker forks processes of the same name, which are left out: the death of one costs a worker nothing.
    """
    parts, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            part = re.match(rb"ray::hlfeat part (\d+)/", (path / "cmdline").read_bytes())
            if part and os.readlink(path / "cwd") == os.getcwd():  # others may run these tests too
                parts[int(path.name)] = int(part[1])
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    return {
        pid: part
        for pid, part in parts.items()
        if pid in parents and parents[pid] not in parts and parent in (None, parents[pid])
    }


def wait_for_a_shard(out: str, parent: int | None = None) -> int:
    """A worker that has finished a shard; it is told a moment later."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for pid, part in tasks(parent).items() if any(Path(out).glob(f"shard-p{part}of*.jsonl"))]
        return bool(found)

    assert eventually(look, 60)
    return found[0]


def extract(out: str, meanwhile: Callable[[], object]) -> None:
    """A run in this process: it is complete, and tells each path once."""
    told: list[Path] = []
    thread = threading.Thread(target=meanwhile)
    thread.start()
    report = hlfeat.extract(CONFIG, ["clips"], out, ON_RAY, finished_shard=told.append)
    thread.join()
    assert (report.complete, report.parts) == (True, PARTS)
    assert contents(Path(out)) == contents(Path("by-hand"))
    assert sorted(told) == sorted(Path(out).glob("*.npy"))


def start(out: str) -> subprocess.Popen[str]:
    """The command, in a group of processes of its own, when it has finished its first shard."""
    run = subprocess.Popen(
        [command(), *TYPED, "-o", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_a_shard(out)
    return run


def test_a_run_that_is_stopped_without_a_cluster(settings):
    """The signal reaches the driver and all that it has started, as from a job's scheduler. Parts go on anywhere."""
    run = start("stopped")
    os.killpg(run.pid, signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "the same command goes on from there" in err
    assert "at once on 1 node of Ray" in err
    assert eventually(lambda: not tasks(), 5)
    hlfeat.extract(CONFIG, ["clips"], "stopped", Options(parts="auto", workers=2, quiet=True, device="cpu"))
    assert contents(Path("stopped")) == contents(Path("by-hand"))


def test_the_cluster_of_the_docs_is_one_to_ray(settings):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(file_of("ray-cluster.yaml")))


def test_a_worker_is_killed(cluster, caplog):
    extract("worker", lambda: os.kill(wait_for_a_shard("worker"), signal.SIGKILL))
    assert sum("its worker died or failed" in message for message in caplog.messages) == 1


def test_the_driver_is_killed(cluster):
    first = start("driver")
    first.kill()
    first.communicate()
    again = subprocess.run([command(), *TYPED, "-o", "driver"], capture_output=True, text=True, check=False)
    assert again.returncode == 3, again.stderr
    assert contents(Path("driver")) == contents(Path("by-hand"))
    assert len(re.findall(r" in [\d.]+ s \([\d.]+ times real time\)", again.stderr)) == 1  # beside how far it is


def test_a_node_is_killed(cluster, caplog, capfd):
    def kill() -> None:
        wait_for_a_shard("node", cluster.other_node.all_processes["raylet"][0].process.pid)
        cluster.remove_node(cluster.other_node, allow_graceful=False)

    extract("node", kill)
    assert capfd.readouterr().out == ""  # which has the paths of shards
    assert sum("its worker died or failed" in message for message in caplog.messages) == 1
