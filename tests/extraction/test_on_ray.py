"""Parts that a Ray cluster does, whose processes and machines die: complete, with the bytes of parts done by hand."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
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
from tests.extraction.runs import contents
from tests.helpers import eventually

pytestmark = pytest.mark.cluster

PARTS = 4
CONFIG = load_config("leaf", ["output.shard_size=2", "frontend.n_filters=20"])  # slow enough to be at work still
TYPED = ["-c", "leaf", "--shard-size", "2", "--set", "frontend.n_filters=20"]
ON_RAY = Options(on="ray", parts=PARTS, workers=1, quiet=True, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, and what parts by hand make of them (`by-hand`)."""
    folder = tmp_path_factory.mktemp("ray")
    helpers.good_clips(folder / "clips", 40, longest=3.0)
    (folder / "clips/d0/text.wav").write_text("no audio")
    for part in WHOLE.split(PARTS):
        options = Options(part=part, workers=2, quiet=True, device="cpu")
        hlfeat.extract(CONFIG, [folder / "clips"], folder / "by-hand", options)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and another node, of one CPU each, as if they were two machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # listens on loopback only
        patch.setenv("RAY_AUTH_TOKEN", uuid4().hex)
        patch.setenv("RAY_AUTH_MODE", "token")
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 80 << 20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", cluster.address)
        cluster.other_node = cluster.add_node(**node)
        yield cluster
        cluster.shutdown()


def tasks() -> list[int]:
    """The workers that do a part, as process ids."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::hlfeat part"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def extract(folder: Path, out: str, at_first_shard: Callable[[], object]) -> list[Path]:
    """A run in this process. Returns the paths that it tells."""
    told: list[Path] = []

    def finished(path: Path) -> None:
        told.append(path)
        if len(told) == 1:
            at_first_shard()

    hlfeat.extract(CONFIG, [folder / "clips"], folder / out, ON_RAY, finished_shard=finished)
    return told


def check_complete(folder: Path, out: str, told: list[Path]) -> None:
    assert contents(folder / out) == contents(folder / "by-hand")
    assert sorted(told) == sorted((folder / out).glob("*.npy"))


def test_a_worker_is_killed(folder, cluster):
    check_complete(folder, "worker", extract(folder, "worker", lambda: os.kill(tasks()[0], signal.SIGKILL)))


def test_the_driver_is_killed(folder, cluster):
    args = [command(), "extract", "clips", "-o", "driver", *TYPED, "--workers", "1", "--parts", str(PARTS)]
    args += ["--on", "ray", "--device", "cpu"]
    first = subprocess.Popen(args, stdout=subprocess.PIPE, cwd=folder)
    assert first.stdout is not None
    first.stdout.readline()
    first.kill()
    first.communicate()
    again = subprocess.run(args, capture_output=True, text=True, check=False, cwd=folder)
    assert again.returncode == 3, again.stderr
    assert again.stderr.count("is at work") + again.stderr.count("Ray") > 0
    for line in set(again.stdout.split()):
        assert (folder / line).is_file()
    expected = {
        name: data.replace(str(folder).encode() + b"/", b"") for name, data in contents(folder / "by-hand").items()
    }
    found = contents(folder / "driver")
    assert {name: data for name, data in found.items() if not name.endswith(".yaml")} == {
        name: data for name, data in expected.items() if not name.endswith(".yaml")
    }


def test_a_node_is_killed(folder, cluster):
    def kill() -> None:
        assert eventually(lambda: len(tasks()) == 2)
        cluster.remove_node(cluster.other_node, allow_graceful=False)

    check_complete(folder, "node", extract(folder, "node", kill))
