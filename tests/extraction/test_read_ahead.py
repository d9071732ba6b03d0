"""Long clips read before their turn: in order, in bounded memory, and never waiting for one another."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.audio.clip import Clip
from hlfeat.errors import ClipError
from hlfeat.extraction.events import ClipInfo
from hlfeat.extraction.read_ahead import ReadAhead
from tests.helpers import eventually

BLOCK = 400  # bytes


def info_of(i: int, blocks: int, fails: bool = False) -> ClipInfo:
    return ClipInfo(Clip(str(i), "fails" if fails else ""), 16000, 1, 1.0, 0, 0, 1, blocks)


class Files:
    """What reads are told to read, and what became of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.read = self.open = self.most_open = self.ended = 0
        self.begun: list[str] = []

    def blocks(self, info, channel, cancelled):
        with self.lock:
            self.begun.append(f"{info.clip.id}.{channel}")
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            for i in range(info.length):
                if cancelled():
                    raise ClipError("cancelled", "the run was stopped")
                with self.lock:
                    self.read += BLOCK
                yield torch.full((1, BLOCK // 4), float(i))
            if info.clip.path:
                raise ClipError("corrupt", f"clip {info.clip.id}")
        finally:
            with self.lock:
                self.open -= 1
                self.ended += 1


def all_of(read) -> list[object]:
    """The blocks of a read, or the error at their end, unless it takes for ever."""
    results: list[object] = []

    def take() -> None:
        try:
            results.extend(read)
        except ClipError as e:
            results.append(e.code)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return results


@given(
    lengths=st.lists(st.integers(0, 30), max_size=9),
    channels=st.integers(1, 3),
    at_once=st.integers(1, 4),
    most_blocks=st.integers(0, 12),
    failing=st.sets(st.integers(0, 8)),
    left=st.dictionaries(st.integers(0, 8), st.integers(0, 5)),
)
def test_all_blocks_in_order_in_bounded_memory(lengths, channels, at_once, most_blocks, failing, left):
    """Some clips fail at their end, some are left in the middle."""
    files, taken = Files(), 0
    most = most_blocks * BLOCK
    with ReadAhead(files.blocks, lambda: False, at_once, most) as ahead:
        reads = [
            [ahead.add(info_of(i, n, i in failing), channel) for channel in range(channels)]
            for i, n in enumerate(lengths)
        ]
        for i, (n, of_clip) in enumerate(zip(lengths, reads, strict=True)):
            for read in of_clip:
                values, error = [], None
                try:
                    for block in read:
                        with files.lock:
                            taken += BLOCK
                        assert left or files.read - taken <= most + at_once * BLOCK
                        assert ahead.waiting_bytes <= most + at_once * BLOCK
                        values.append(block[0, 0].item())
                        if len(values) > left.get(i, n):
                            break
                except ClipError as e:
                    error = str(e)
                whole = len(values) <= left.get(i, n)
                assert values == list(range(n if whole else left[i] + 1))
                assert error == (f"clip {i}" if i in failing and whole else None)
                if not whole:
                    break  # the other channels of the clip are not wanted either
            for read in of_clip:
                read.close()
    assert files.open == 0
    assert files.ended == len(files.begun)
    assert threading.active_count() < 20


def test_as_many_are_read_at_once_as_there_may_be_in_order():
    files = Files()
    with ReadAhead(files.blocks, lambda: False, 3, 3 * BLOCK) as ahead:
        reads = [ahead.add(info_of(i, 50), 0) for i in range(6)]
        assert eventually(lambda: ahead.waiting_bytes == 3 * BLOCK)
        assert sorted(files.begun) == ["0.0", "1.0", "2.0"]
        assert sum(1 for _ in reads[0]) == 50
        assert eventually(lambda: len(files.begun) == 4)
        assert files.begun[3] == "3.0"
        reads[4].close()  # was not begun, and never is
        reads[1].close()
        assert eventually(lambda: len(files.begun) == 5)
        assert files.begun[4] == "5.0"
    assert files.most_open <= 4  # one that was closed may be about to end


def test_a_read_that_is_wanted_before_earlier_ones_begins_at_once():
    files = Files()
    with ReadAhead(files.blocks, lambda: False, 1, BLOCK) as ahead:
        reads = [ahead.add(info_of(i, 9), 0) for i in range(3)]
        assert len(all_of(reads[2])) == 9
        assert len(all_of(reads[0])) == 9


def test_leaving_ends_all_reads():
    files = Files()
    with ExitStack() as stack:
        ahead = stack.enter_context(ReadAhead(files.blocks, lambda: False, 2, BLOCK))
        for i in range(4):
            ahead.add(info_of(i, 10**9), 0)
        assert eventually(lambda: len(files.begun) == 2)
    assert files.open == 0
    assert len(files.begun) == 2


def test_a_reader_that_waits_for_its_file_ends_when_it_is_closed_or_the_run_is_stopped():
    waiting, stopped = threading.Event(), threading.Event()

    def blocks(info, channel, cancelled):
        waiting.set()
        while not cancelled():
            time.sleep(0.001)
        raise ClipError("cancelled", "the run was stopped")
        yield

    with ReadAhead(blocks, lambda: False, 1, BLOCK) as ahead:
        ahead.add(info_of(0, 1), 0)
        assert waiting.wait(30)
    with ReadAhead(blocks, stopped.is_set, 1, BLOCK) as ahead:
        read = ahead.add(info_of(0, 1), 0)
        stopped.set()
        assert all_of(read) == ["cancelled"]


def test_what_reading_raises_is_raised_where_the_samples_are_wanted():
    def blocks(info, channel, cancelled):
        yield torch.zeros(1, 1)
        raise OSError(24, "too many open files")

    with ReadAhead(blocks, lambda: False, 1, BLOCK) as ahead:
        samples = iter(ahead.add(info_of(0, 1), 0))
        assert len(next(samples)) == 1
        with pytest.raises(OSError, match="too many"):
            next(samples)
