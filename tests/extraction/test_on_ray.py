"""Parts that a Ray cluster does, whose processes and machines die: complete, with the bytes of parts done by hand.

pytest -m cluster       starts a cluster of two nodes on this machine
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

import hlfeat
from hlfeat.config.loading import load_config
from hlfeat.extraction.options import Options
from hlfeat.partition import WHOLE
from tests import helpers
from tests.conftest import command
from tests.docs.test_jobs import file_of
from tests.extraction import ray_nodes
from tests.extraction.runs import contents
from tests.helpers import eventually

pytestmark = pytest.mark.cluster

PARTS = 2
SETTINGS = ["output.shard_size=2", "frontend.n_filters=40"]
CONFIG = load_config("leaf", SETTINGS)  # slow enough to be at work still
TYPED = ["extract", "clips", "-c", "leaf", *(word for s in SETTINGS for word in ("--set", s))]
TYPED += ["--workers", "1", "--device", "cpu", "--on", "ray", "--parts", str(PARTS)]
TIMEOUT = 120  # seconds in which a run ends


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
def nodes(settings: pytest.MonkeyPatch) -> Iterator[ray_nodes.Nodes]:
    with ray_nodes.two_nodes() as nodes:
        settings.setenv("RAY_ADDRESS", nodes.address)
        yield nodes
    settings.delenv("RAY_ADDRESS")


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


def start(out: str) -> subprocess.Popen[str]:
    """The command, in a group of processes of its own."""
    return subprocess.Popen(
        [command(), *TYPED, "-o", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def check_end(run: subprocess.Popen[str], out: str) -> str:
    """A run is complete but for the broken clip, and prints each path once; what it says of it all."""
    printed, said = run.communicate(timeout=TIMEOUT)
    assert run.returncode == 3, said
    assert contents(Path(out)) == contents(Path("by-hand"))
    assert sorted(printed.splitlines()) == sorted(map(str, Path(out).glob("*.npy")))
    report = json.loads(Path(out, "report.json").read_text())
    assert (report["complete"], report["parts"]) == (True, PARTS)
    return said


def test_a_run_that_is_stopped_without_a_cluster(settings):
    """The signal reaches the driver and all that it has started, as from a job's scheduler. Parts go on anywhere."""
    run = start("stopped")
    wait_for_a_shard("stopped")
    os.killpg(run.pid, signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "the same command goes on from there" in err
    assert "at once on 1 node of Ray" in err
    assert eventually(lambda: not tasks(), 5)
    hlfeat.extract(CONFIG, ["clips"], "stopped", Options(parts="auto", workers=2, quiet=True, device="cpu"))
    assert contents(Path("stopped")) == contents(Path("by-hand"))


def test_a_run_that_is_stopped_while_ray_starts(settings):
    """Ray would answer SIGTERM by ending the process, without a word."""
    run = start("early")

    def starts() -> bool:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        return any(b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children)

    assert eventually(starts, 60)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "the same command goes on from there" in err


def test_the_cluster_of_the_docs_is_one_to_ray(settings):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(file_of("ray-cluster.yaml")))


def test_a_cluster_that_refuses(nodes, monkeypatch):
    """Its token is another one; Ray itself would ask 20 times, and say so each time."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", uuid4().hex)
    run = start("refused")
    _, err = run.communicate(timeout=TIMEOUT)
    assert run.returncode == 1, err
    assert err.splitlines()[-1].endswith(f"Failed to connect to Ray cluster at {nodes.address}")
    assert err.count("Authentication token is missing or incorrect") <= 2
    assert not Path("refused").exists()


def test_a_worker_is_killed(nodes):
    run = start("worker")
    os.kill(wait_for_a_shard("worker"), signal.SIGKILL)
    assert check_end(run, "worker").count("its worker died or failed") == 1


def test_the_driver_is_killed(nodes):
    first = start("driver")
    wait_for_a_shard("driver")
    first.kill()
    first.communicate()
    again = start("driver")
    _, said = again.communicate(timeout=TIMEOUT)
    assert again.returncode == 3, said
    assert contents(Path("driver")) == contents(Path("by-hand"))
    assert len(re.findall(r" in [\d.]+ s \([\d.]+ times real time\)", said)) == 1  # beside how far it is


def test_a_node_is_killed(nodes):
    run = start("node")
    wait_for_a_shard("node", nodes.other)
    nodes.remove_other()
    assert check_end(run, "node").count("its worker died or failed") == 1
