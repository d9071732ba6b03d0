"""Independent jobs in two processes of one thread each, as many as the machine is said to have."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from scripts.evidence.records import Record

PROCESSES = 2


def one_thread() -> None:
    """Threads of two processes on two cores would wait for each other."""
    torch.set_num_threads(1)


def timed(work: Callable[..., Record], job: Mapping[str, Any], arguments: Sequence[Any]) -> Record:
    """The job's record, with the seconds that it took, on the clock and of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    record = work(job, *arguments)
    seconds = {"seconds": time.perf_counter() - start, "core_seconds": time.process_time() - busy}
    return {**job, **record, **{name: round(value, 3) for name, value in seconds.items()}}


def run_jobs(
    work: Callable[..., Record], jobs: Sequence[Mapping[str, Any]], *arguments: Any,
    write: Callable[[Record], None], processes: int = PROCESSES,
) -> list[Record]:  # fmt: skip
    """`work(job, *arguments)` of every job.

    Args:
        work: a function of a module, whose results do not depend on the process.
        write: called with each record, in the order of finishing.

    Returns:
        The records, in the order of jobs. An exception of a job ends all.
    """
    if processes < 2:
        records = []
        for job in jobs:
            records.append(timed(work, job, arguments))
            write(records[-1])
        return records
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=one_thread) as pool:
        futures = [pool.submit(timed, work, job, arguments) for job in jobs]
        try:
            for future in as_completed(futures):
                write(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
