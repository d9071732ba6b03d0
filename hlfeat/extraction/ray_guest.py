"""Ray as a guest in this process: it keeps signals, log and standard output as it has found them.

Some of it takes functions of Ray that are not public. Where a version lacks one, the rest is kept all the same.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hlfeat.extraction.stop_signals import STOPS

log = logging.getLogger("hlfeat")


@contextmanager
def silenced(ray: Any) -> Iterator[None]:
    """Ray prints what happens to its processes to standard output, which has the paths of shards.

    Afterwards it speaks again: the process may use Ray for something else.
    """
    logger, worker = logging.getLogger("ray"), ray._private.worker
    level, printing = logger.level, getattr(worker, "print_to_stdstream", None)
    logger.setLevel(logging.ERROR)
    if printing is not None:
        worker.print_to_stdstream = lambda data, *_, **__: log.debug("Ray: %s", data.get("lines"))
    try:
        yield
    finally:
        logger.setLevel(level)
        if printing is not None:
            worker.print_to_stdstream = printing


@contextmanager
def signals_kept(ray: Any) -> Iterator[None]:
    """Ray answers SIGTERM itself: its Python ends the process while it starts, and its C++ once it is connected.

    What Ray starts here is to live until it is told to end, even if a signal reaches all processes, as it does where a
    terminal is closed or a job's time is over. This process gets signals meanwhile, as its other threads do.
    """
    utils = ray._private.utils
    ray_answers = getattr(utils, "set_sigterm_handler", None)
    if ray_answers is not None:
        utils.set_sigterm_handler = lambda handler: None
    handlers = {number: signal.getsignal(number) for number in STOPS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        if ray_answers is not None:
            utils.set_sigterm_handler = ray_answers
            handlers = {number: signal.getsignal(number) for number in STOPS}  # a signal may have changed them
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # last: a signal that has waited comes now
