"""Messages with arrays arrive as they were sent, however large, through shared memory or not."""

from __future__ import annotations

import os
import socket
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.audio.decoder import TruncatedError
from hlfeat.errors import ClipError, LayerError
from hlfeat.extraction.channel import CancelledError, Channel, ChannelClosedError


@pytest.fixture
def ends():
    channels = [Channel(end) for end in socket.socketpair()]
    yield channels
    for channel in channels:
        channel.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@given(
    shapes=st.lists(st.lists(st.integers(0, 40), max_size=3), max_size=6),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8"]),
    tensors=st.booleans(),
)
def test_arrays_and_tensors(shapes, dtype, tensors):
    one, other = (Channel(end) for end in socket.socketpair())
    arrays = [np.arange(np.prod(shape)).astype(dtype).reshape(shape) for shape in shapes]
    sent = [torch.from_numpy(a) for a in arrays] if tensors else arrays
    one.send({"values": sent, "text": "a\udc80"})
    got = other.receive()
    one.close(), other.close()
    assert got["text"] == "a\udc80"
    for a, b in zip(arrays, got["values"], strict=True):
        assert isinstance(b, torch.Tensor) == tensors
        np.testing.assert_array_equal(a, np.asarray(b), strict=True)


@pytest.mark.parametrize("size", [1000, 1 << 16, (1 << 22) + 3])
def test_sizes(ends, size):
    """A large message waits in memory for its receiver, and leaves no open file behind."""
    before = open_files()
    arrays = [np.arange(size, dtype=np.uint8), np.ones((3, 5))[:, ::2], np.zeros(0)]
    for _ in range(3):
        ends[0].send(arrays)
    for _ in range(3):
        got = ends[1].receive(lambda: False)
        for a, b in zip(arrays, got, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
            b += 1  # it is the receiver's
    assert open_files() == before


def test_more_arrays_than_are_written_at_once(ends):
    arrays = [np.full(100, i, np.int16) for i in range(3000)]
    ends[0].send(arrays)
    assert all((a == b).all() for a, b in zip(arrays, ends[1].receive(), strict=True))


def test_a_closed_end(ends):
    ends[1].close()
    for size in (1, 1 << 20):
        with pytest.raises(ChannelClosedError):
            ends[0].send(np.zeros(size))
    with pytest.raises(ChannelClosedError):
        ends[0].receive()


def test_what_is_not_wanted_any_more(ends):
    asked = threading.Event()
    with pytest.raises(CancelledError):
        ends[0].receive(lambda: asked.is_set() or asked.set())


@pytest.mark.parametrize("error", [ClipError("corrupt", "why"), TruncatedError("cut", 2.5), LayerError(("a", 0), "b")])
def test_errors_arrive_whole(ends, error):
    ends[0].send(error)
    got = ends[1].receive()
    assert (type(got), str(got), vars(got)) == (type(error), str(error), vars(error))


def test_what_the_system_writes_in_pieces(ends, monkeypatch):
    """As it does beyond 2 GiB."""
    write = os.writev
    monkeypatch.setattr(os, "writev", lambda file, pieces: write(file, [b"".join(pieces)[:1001]]))
    arrays = [np.arange(n, dtype=np.int16) for n in (20_000, 3, 17_000)]
    ends[0].send(arrays)
    assert all((a == b).all() for a, b in zip(arrays, ends[1].receive(), strict=True))
