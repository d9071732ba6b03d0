"""The engine of devices by itself: what it holds, in which order it gives it, how far ahead it reads."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from hlfeat.audio.clip import Clip
from hlfeat.audio.resample import Resampler
from hlfeat.config.loading import load_config
from hlfeat.extraction.clip_loader import ClipLoader
from hlfeat.extraction.events import ClipInfo, FailedClip, LoadedClip, ShardBreak
from hlfeat.extraction.options import Limits
from hlfeat.extraction.setup import prepare
from tests.extraction.fake_cuda import FakeCuda, engines_on
from tests.extraction.runs import CHEAP
from tests.helpers import eventually

WITHOUT_MEDIAN = "frontend.compression={kind: logtbn, median_filter: false, append_filtered: false}"


def loaded(i: int, samples: int, long: bool) -> LoadedClip:
    info = ClipInfo(Clip(str(i), ""), 16000, 1, samples / 16000, 0, 0, 1, samples)
    return LoadedClip(info) if long else LoadedClip(info, [torch.zeros(samples)], [True])


class ThreeReaders:
    """A pool that reads silence."""

    workers = 3

    def read(self, info, channel, cancelled):
        yield torch.zeros(1, info.length)


def engine_with(limits: Limits):
    extractor, postprocessor, _ = prepare(load_config(overrides=[*CHEAP, WITHOUT_MEDIAN]), None, None)
    loader, dtype = ClipLoader(Resampler(16000), "mix", limits), np.dtype("float32")
    return engines_on(FakeCuda())(extractor.eval(), postprocessor, loader, None, dtype, 8000, limits)


CLIPS = st.tuples(st.integers(1, 2000), st.booleans(), st.integers(0, 9))  # samples, long, 0: a shard begins


@example(clips=[(1000, False, 1)] * 30, block=4)
@example(clips=[(1000, True, 1)] * 12, block=4)
@given(clips=st.lists(CLIPS, max_size=30), block=st.integers(1, 40))
def test_the_engine_holds_two_blocks_at_most(clips, block):
    """Bytes of samples, and long clips that are read ahead, between what it takes and what it gives."""
    limits = Limits(block_bytes=block * 1000, long_reads=2, window_samples=4000)
    held = opened = largest = 0
    order: list[object] = []

    def stream():
        nonlocal held, opened, largest
        for i, (samples, long, begins) in enumerate(clips):
            if begins == 0:
                yield ShardBreak()
            clip = loaded(i, samples, long)
            held, opened, largest = held + clip.nbytes, opened + clip.long, max(largest, clip.nbytes)
            yield clip

    with closing(engine_with(limits).compute(stream(), ThreeReaders(), Path("."), lambda: False)) as events:
        for event in events:
            if isinstance(event, ShardBreak):
                order.append("break")
                continue
            assert held <= 2 * (limits.block_bytes + largest)
            assert opened <= 2 * limits.long_reads
            i = int(event.info.clip.id)
            order.append(i)
            for _ in event.channels[0]:
                pass
            if clips[i][1]:
                opened -= 1
            else:
                held -= 4 * clips[i][0]
    assert order == [step for i, clip in enumerate(clips) for step in (["break"] * (clip[2] == 0) + [i])]


def test_a_run_that_is_stopped_gets_an_event_at_once():
    """However much a block may still take: it asks whether it is stopped for every event."""
    taken = []

    def stream():
        for i in range(1000):
            taken.append(i)
            yield loaded(i, 100, long=False)

    with closing(engine_with(Limits()).compute(stream(), ThreeReaders(), Path("."), lambda: len(taken) > 5)) as events:
        assert isinstance(next(events), FailedClip)
    assert len(taken) <= 7


def test_long_clips_are_read_several_at_once_and_no_further_once_they_have_failed():
    begun: list[str] = []
    ended: list[str] = []

    class Readers(ThreeReaders):
        def read(self, info, channel, cancelled):
            begun.append(f"{info.clip.id}.{channel}")
            try:
                while not cancelled():
                    yield torch.zeros(1, 100_000)
                    time.sleep(0.001)
            finally:
                ended.append(f"{info.clip.id}.{channel}")

    def stream():
        for i in range(5):
            clip = loaded(i, 10**9, long=True)
            yield replace(clip, info=replace(clip.info, channels_out=2))

    limits = Limits(long_bytes=1 << 20)
    with closing(engine_with(limits).compute(stream(), Readers(), Path("."), lambda: False)) as events:
        for i in range(2):
            clip = next(events)  # of the second channel nothing is asked for: the first has failed
            assert len(list(islice(clip.channels[0], 3))) == 3
            assert eventually(lambda: len(begun) >= 3)
            assert f"{i}.0" in begun
        assert eventually(lambda: {"0.0", "0.1"} <= set(ended))
        assert len(begun) - len(ended) <= 3 + 1
    assert sorted(begun) == sorted(ended)
    assert len(begun) < 10
