"""Workers of a Ray cluster: a task for each part, which calls hlfeat in the worker's own process.

Ray starts a task again whose worker or machine has died. A worker ends with the process that has sent it, and what it
has forked ends with the worker, so that nothing goes on writing.

No other module imports Ray, and this one does so when a run needs it.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from hlfeat.errors import HlfeatError, InterruptedRunError, OutputError, UsageError
from hlfeat.extraction.mailbox import Mailbox, Message
from hlfeat.extraction.options import Options, default_workers
from hlfeat.extraction.ray_guest import signals_kept, silenced
from hlfeat.extraction.remote_part import Assignment, TryAgainError, do_part
from hlfeat.extraction.report import Report
from hlfeat.partition import Part
from hlfeat.text import count

RETRIES = 3  # of a part
CONNECT_TIMEOUT = 10.0  # seconds in which a cluster takes a connection
ANSWER_TIMEOUT = 60.0  # seconds in which the mailbox answers

log = logging.getLogger("hlfeat")


class RayWorkers:
    """Connects to the cluster that RAY_ADDRESS names, or starts one on this machine, which ends with it.

    Where the process is connected to a cluster already, that one is used, and stays connected.

    Args:
        options: with `workers` and `device` of each part.

    Raises:
        UsageError: Ray is not installed; devices that no task can have, or that this machine lacks where it is alone.
        OutputError: there is no cluster at the address.
    """

    def __init__(self, options: Options) -> None:
        address = os.environ.get("RAY_ADDRESS") or "local"
        check_address(address)
        self._ray = _import_ray(address)
        self._running: dict[Any, Part] = {}
        self._cpus = options.workers * len(options.devices)
        with ExitStack() as connection:
            owns = not self._ray.is_initialized()
            if owns:
                connection.enter_context(silenced(self._ray))
                connection.callback(self._ray.shutdown)  # of what has started, if something ends the start
                _connect(self._ray, address, self._cpus)
            self._nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            gpus = sum(node.get("GPU", 0) for node in self._nodes)
            self._gpus = gpus_of(options.devices, gpus > 0)
            if owns and address == "local" and gpus < self._gpus:  # no node can join, and the parts would wait for ever
                raise UsageError(
                    f"device {options.device}: expected {count(self._gpus, 'GPU')}, and Ray finds {gpus:g} on this "
                    "machine; RAY_ADDRESS names a cluster"
                )
            self._connection = connection.pop_all()

    @property
    def capacity(self) -> int:
        """How many parts the cluster can do at once."""
        return sum(_tasks_on(node, self._cpus, self._gpus) for node in self._nodes)

    def describe(self) -> str:
        """What a part takes, and who has it."""
        gpus = f" and {self._gpus} GPU{'s' * (self._gpus > 1)}" if self._gpus else ""
        nodes = f"{len(self._nodes)} node{'s' * (len(self._nodes) != 1)}"
        return f"each with {self._cpus} CPU{'s' * (self._cpus > 1)}{gpus}; {self.capacity} at once on {nodes} of Ray"

    def start(self, assignment: Assignment, parts: Sequence[Part]) -> None:
        """Have all parts done."""
        ray = self._ray
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        this_node = affinity(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=this_node).remote()
        self.messages()  # it is there before a worker has anything to say, or is to stop
        as_task = ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_retries=RETRIES,
            retry_exceptions=[TryAgainError],
            scheduling_strategy="SPREAD",
        )
        task = as_task(_task)
        shared = ray.put(assignment)
        for part in parts:
            self._running[task.options(name=f"hlfeat part {part}").remote(shared, part, self._mailbox)] = part

    def finished(self, timeout: float) -> list[tuple[Part, Report | HlfeatError]]:
        """The parts that have ended since the last time, however, after so many seconds."""
        refs = list(self._running)
        ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=timeout)
        return [(self._running.pop(ref), self._result(ref)) for ref in ready]

    def messages(self) -> list[Message]:
        """What the workers have said, at least all that those said which have ended."""
        try:
            taken: list[Message] = self._ray.get(self._mailbox.take.remote(), timeout=ANSWER_TIMEOUT)
        except self._ray.exceptions.RayError:
            log.debug("", exc_info=True)
            return []
        return taken

    def stop(self, begun: Collection[int]) -> None:
        """Ask all parts to stop, those that have not begun at once."""
        with suppress(self._ray.exceptions.RayError):
            self._mailbox.stop.remote()
            for ref, part in self._running.items():
                if part.index not in begun:
                    self._ray.cancel(ref)

    def kill(self) -> None:
        """End the workers of all parts."""
        for ref in self._running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(ref, force=True)

    def close(self) -> None:
        """End the workers that are left, and the connection, or the cluster of this machine."""
        self.kill()
        self._connection.close()

    def _result(self, ref: Any) -> Report | HlfeatError:
        errors = self._ray.exceptions
        try:
            result: Report | HlfeatError = self._ray.get(ref, timeout=ANSWER_TIMEOUT)
        except errors.TaskCancelledError:
            return InterruptedRunError("its task was cancelled")
        except errors.RayTaskError as e:
            if isinstance(e.cause, TryAgainError):
                return OutputError(f"{e.cause}; tried {RETRIES + 1} times")
            lines = [line for line in str(e.cause).splitlines() if line.strip()]
            return OutputError(": ".join([type(e.cause).__name__, *lines[-1:]]))
        except errors.RayError as e:
            return OutputError(str(e).partition("\n")[0])
        return result


def _task(assignment: Assignment, part: Part, mailbox: Any) -> Report | HlfeatError:
    """What a worker of Ray does."""
    import ray

    def post(messages: Sequence[Message]) -> bool:
        stopped: bool = ray.get(mailbox.post.remote(messages), timeout=ANSWER_TIMEOUT)
        return stopped

    return do_part(assignment, part, post, socket.gethostname())


def gpus_of(devices: Sequence[str], cluster_has: bool) -> int:
    """How many GPUs a part takes. Ray numbers those of each part from 0.

    Args:
        cluster_has: whether there is any in the cluster.

    Raises UsageError for a number that no part can have.
    """
    names = {"cuda:0" if name == "cuda" else name for name in devices if name.startswith("cuda")}
    for name in sorted(names):
        if name not in {f"cuda:{i}" for i in range(len(names))}:
            raise UsageError(
                f"device {name}: expected cuda, or cuda:0,cuda:1,..., as Ray chooses the GPUs of each part"
            )
    return len(names) or int("auto" in devices and cluster_has)


def _tasks_on(node: dict[str, float], cpus: int, gpus: int) -> int:
    by_cpu = node.get("CPU", 0) // cpus
    return int(min(by_cpu, node.get("GPU", 0) // gpus) if gpus else by_cpu)


def check_address(address: str) -> None:
    """See whether anybody listens at the address of a cluster.

    Ray asks for minutes where nobody does, and a signal to stop waits meanwhile.

    Args:
        address: HOST:PORT; or "local" or "auto", which are not checked.

    Raises:
        UsageError: it is no such address.
        OutputError: nobody listens there.
    """
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise UsageError(f"RAY_ADDRESS: expected HOST:PORT of a cluster that this machine is a node of, got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
    except (OSError, UnicodeError) as e:  # the latter of a name that cannot be one
        raise OutputError(f"Ray ({address}): no cluster answers there: {getattr(e, 'strerror', None) or e}") from e


def _import_ray(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":  # then Ray listens on loopback only, as it does on a Mac
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    else:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # of 45 s, where something else than Ray listens; or 20
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as e:
        raise UsageError(f"on ray: needs Ray: pip install 'hlfeat[ray]' ({e})") from e
    return ray


def _connect(ray: Any, address: str, cpus: int) -> None:
    more: dict[str, Any] = {}
    if address == "local":
        more = {"num_cpus": max(cpus, default_workers()), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with signals_kept(ray):
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, **more)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as e:
            reason = " ".join(str(e).split())
            raise OutputError(f"Ray ({address}): {reason or type(e).__name__}") from e
