"""Messages between two processes; the arrays in them go through shared memory.

A message is pickled, its arrays and tensors beside it. All of it is written into an anonymous file in memory
(memfd_create), whose descriptor is sent; the receiver reads it into memory of its own. So a sender does not wait until
the receiver has time, and nothing is left behind if either of them is killed. Small messages are sent as they are.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

POLL = 0.1  # seconds between looks at whether a message is still wanted
_HEADER = struct.Struct("<QQ")  # number of views (the message, and its arrays); bytes of all, with padding
_SHARED = 1 << 16  # bytes from which a message goes through shared memory
_ALIGNMENT = 64  # bytes that an array starts at a multiple of
_MOST_PIECES = 1024  # that the system writes with one call


class ChannelClosedError(Exception):
    """The other end is closed."""


class CancelledError(Exception):
    """The message is not wanted any more."""


class Channel:
    """One end of a connection; for one thread at a time.

    Args:
        connection: a stream socket of this machine.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: object) -> None:
        """Send a message. Raises ChannelClosedError if nobody will receive it."""
        arrays: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _Pickler(stream, protocol=5, buffer_callback=arrays.append).dump(message)
        views = [stream.getbuffer(), *(array.raw() for array in arrays)]
        sizes = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
        pieces, total = _padded([memoryview(sizes), *views])
        header = _HEADER.pack(len(views), total)
        try:
            if total < _SHARED:
                self._socket.sendall(b"".join([header, *pieces]))
                return
            memory = os.memfd_create("hlfeat", os.MFD_CLOEXEC)
            try:
                _write(memory, pieces)
                socket.send_fds(self._socket, [header], [memory])
            finally:
                os.close(memory)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise ChannelClosedError from e

    def receive(self, cancelled: Callable[[], bool] | None = None) -> Any:
        """The next message.

        Args:
            cancelled: asked now and then; None: wait for as long as it takes.

        Raises:
            ChannelClosedError: there will be none.
            CancelledError: `cancelled` returned True. The channel cannot be used any more.
        """
        self._socket.settimeout(None if cancelled is None else POLL)
        memory: list[int] = []
        try:
            header = bytearray(_HEADER.size)
            self._fill(memoryview(header), cancelled, memory)
            count, total = _HEADER.unpack(header)
            data = np.empty(total, np.uint8).data
            if memory:
                _read(memory[0], data)
            else:
                self._fill(data, cancelled, memory)
        except ConnectionResetError as e:
            raise ChannelClosedError from e
        finally:
            for descriptor in memory:
                os.close(descriptor)
            self._socket.settimeout(None)
        sizes = struct.unpack_from(f"<{count}Q", data)
        _, message, *arrays = _cut(data, [8 * count, *sizes])
        return pickle.loads(message, buffers=arrays)

    def _fill(self, view: memoryview, cancelled: Callable[[], bool] | None, memory: list[int]) -> None:
        """Fill the view; a descriptor that comes along is added to `memory`."""
        space = socket.CMSG_SPACE(struct.calcsize("i"))
        while view:
            try:
                read, extra, _, _ = self._socket.recvmsg_into([view], space, socket.MSG_CMSG_CLOEXEC)
            except TimeoutError:
                if cancelled is not None and cancelled():
                    raise CancelledError from None
                continue
            for level, kind, value in extra:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    memory.append(struct.unpack("i", value)[0])
            if not read:
                raise ChannelClosedError
            view = view[read:]

    def close(self) -> None:
        self._socket.close()


class _Pickler(pickle.Pickler):
    """Pickles tensors as the arrays that they are; torch would make a file of each."""

    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[torch.Tensor] = lambda tensor: (torch.from_numpy, (np.asarray(tensor.numpy(), order="C"),))


def _padded(views: Sequence[memoryview]) -> tuple[list[memoryview], int]:
    """The views with zeros between them, so that each begins at a multiple of _ALIGNMENT; bytes of all."""
    zeros = memoryview(bytes(_ALIGNMENT))
    pieces: list[memoryview] = []
    total = 0
    for view in views:
        padding = -view.nbytes % _ALIGNMENT
        pieces.append(view)
        if padding:
            pieces.append(zeros[:padding])
        total += view.nbytes + padding
    return [piece for piece in pieces if piece.nbytes], total


def _cut(data: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """What `_padded` put together."""
    views, start = [], 0
    for size in sizes:
        views.append(data[start : start + size])
        start += size + -size % _ALIGNMENT
    return views


def _write(file: int, pieces: list[memoryview]) -> None:
    start = 0
    while start < len(pieces):
        written = os.writev(file, pieces[start : start + _MOST_PIECES])
        while start < len(pieces) and written >= pieces[start].nbytes:
            written -= pieces[start].nbytes
            start += 1
        if written:
            pieces[start] = pieces[start][written:]


def _read(file: int, view: memoryview) -> None:
    position = 0
    while position < view.nbytes:
        position += os.preadv(file, [view[position:]], position)
