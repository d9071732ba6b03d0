"""What a process of a ProcessPool does."""

from __future__ import annotations

import ctypes
import logging
import pickle
import resource
import selectors
import socket
from contextlib import suppress

import torch

from hlfeat.extraction.channel import Channel, ChannelClosedError
from hlfeat.extraction.events import ClipInfo
from hlfeat.extraction.worker_pool import Worker

log = logging.getLogger("hlfeat")

# glibc's mallopt, and what it is told: allocations of up to 32 MiB (the most that it accepts) are taken from memory
# that the process has, of which up to 64 MiB are kept when they are free
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST = 1 << 26, 1 << 25


def work(worker: Worker, connections: list[socket.socket]) -> None:
    """What a process does: it answers requests, whichever channel they come through, until all are closed."""
    worker.start_worker()
    _keep_memory()
    start = _peak_bytes()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, Channel(connection))
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    _answer(worker, key.data, start)
                except ChannelClosedError:
                    selector.unregister(key.fileobj)


def _answer(worker: Worker, channel: Channel, start: int) -> None:
    name, arguments = channel.receive()
    if name == "read":
        _send_blocks(worker, channel, *arguments)
        raise ChannelClosedError  # the process was started for that
    try:
        if name == "in_worker":
            value = worker.in_worker(arguments, lambda: False), worker.loader.shares_pass(arguments[0])
        else:
            with torch.inference_mode():
                value = worker.apply(*arguments)
        channel.send(("result", value, _peak_bytes() - start))
    except ChannelClosedError:
        raise
    except Exception as e:
        channel.send(("error", _portable(e), 0))


def _send_blocks(worker: Worker, channel: Channel, info: ClipInfo, of_file: int) -> None:
    """Send a long clip, a block for each message that asks for one."""
    try:
        for block in worker.loader.channel_chunks(info, of_file, lambda: False):
            channel.receive()
            channel.send(("block", block))
        channel.receive()
        channel.send(("end", None))
    except ChannelClosedError:
        raise
    except Exception as e:
        channel.receive()
        channel.send(("error", _portable(e)))


def _portable(error: Exception) -> Exception:
    """An error that can be sent: the same, if that is possible."""
    log.debug("", exc_info=True)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _keep_memory() -> None:
    """Keep freed memory for the next clips: getting it back from the system takes as long as a fifth of a log-mel."""
    with suppress(OSError, AttributeError):  # another library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
