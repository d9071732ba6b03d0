"""A Ray cluster of two nodes on this machine, in a process of its own, so that the tests' process has nothing of Ray.

`python -m tests.extraction.ray_nodes` prints its address and the process of the second node, ends that node at a line
of its standard input, and everything at the end of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ENDING = 60  # seconds that a cluster may take to end


class Nodes:
    """The cluster, for a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        facts = json.loads(self._answer())
        self.address: str = facts["address"]
        self.other: int = facts["other"]

    def remove_other(self) -> None:
        """End the second node and all its processes, as if its machine were off."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert json.loads(self._answer()) == "removed"

    def _answer(self) -> str:
        """The next line that begins as JSON does; Ray may print others."""
        assert self._process.stdout is not None
        return next(line for line in self._process.stdout if line.startswith(('{"', '"')))


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """A head and another node, of one CPU each, as if they were two machines."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Nodes(process)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=ENDING)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    other = cluster.add_node(**node)
    facts = {"address": cluster.address, "other": other.all_processes["raylet"][0].process.pid}
    print(json.dumps(facts), flush=True)
    if sys.stdin.readline():
        cluster.remove_node(other, allow_graceful=False)
        print(json.dumps("removed"), flush=True)
        sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
