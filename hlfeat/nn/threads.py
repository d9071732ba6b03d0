"""Work in parts on several cores, with one join for all of it.

torch gives each operation to its threads, and waits for them after each. An operation of 50 microseconds then costs as
long as the slowest thread is kept waiting: on a machine whose cores are busy, a time slice of the system, for each of
hundreds of operations. Here whole parts of the work go to threads which run their operations alone, so only one wait is
left, and a thread that is kept waiting leaves its parts to the others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from hlfeat.nn._private_torch import operations_watched

T = TypeVar("T")
R = TypeVar("R")

_pools: dict[int, ThreadPoolExecutor] = {}  # by their number of threads
_making = threading.Lock()  # of pools
_setting = threading.Lock()  # of torch's number of threads


def forget_pools() -> None:
    """In a forked process there are no threads but the one that forked."""
    global _making, _setting
    _pools.clear()
    _making, _setting = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=forget_pools)


def parallel_map(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """`work` of each part, on as many threads as torch uses here; the results are in the order of the parts.

    Gradients are off in `work`. Where operations are watched, by a mode of torch that sees those of one thread alone,
    they run in the calling thread.
    """
    threads = min(torch.get_num_threads(), len(parts))
    inference = torch.is_inference_mode_enabled()

    def alone(part: T) -> R:
        with torch.inference_mode() if inference else torch.no_grad():  # both are a thread's own
            return work(part)

    if threads < 2 or operations_watched():
        return [alone(part) for part in parts]
    return list(pool_of(torch.get_num_threads()).map(alone, parts))


def pool_of(threads: int) -> ThreadPoolExecutor:
    """Threads whose operations use one thread each; they are kept, as they take longer to start than a clip does."""
    with _making:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads, "hlfeat-filterbank", initializer=use_one_thread)
        return _pools[threads]


def use_one_thread() -> None:
    """One thread for this thread's operations, and as many as before for those of threads yet to start.

    torch.set_num_threads sets both, its caller's number and that of threads that have not computed yet, which is also
    what a new thread's torch.get_num_threads returns.
    """
    with _setting:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        other = threading.Thread(target=torch.set_num_threads, args=(before,))
        other.start()
        other.join()
