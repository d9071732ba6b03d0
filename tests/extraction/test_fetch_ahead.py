"""Clips whose bytes are fetched ahead: order, bounds, faults, and copies that are given up."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Any

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Copy
from hlfeat.errors import ClipError
from hlfeat.extraction.events import ClipInfo, LoadedClip
from hlfeat.extraction.fetch_ahead import FetchAhead
from hlfeat.extraction.options import Limits
from hlfeat.extraction.prefetch import Prefetcher
from tests.helpers import eventually


class Elsewhere:
    """Has 100 bytes for each clip; notes how many are fetched at once."""

    def __init__(self, bad: str = "") -> None:
        self.bad, self.fetched = bad, []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self.closed = False

    def brings(self, clip: Clip) -> bool:
        return clip.path.startswith("far/")

    def fetch(self, clip: Clip) -> Copy:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.fetched.append(clip.id)
        time.sleep(0.01)
        with self._lock:
            self.at_once -= 1
        if clip.id == self.bad:
            raise ClipError("missing", "no such object")
        return Copy(clip.id.encode() * 50)

    def stop(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def far(n: int) -> list[Clip]:
    return [Clip(f"{i:02d}", f"far/{i}") for i in range(n)]


def test_clips_come_in_order_with_their_bytes_and_fetches_are_bounded():
    elsewhere = Elsewhere()
    with FetchAhead([*far(20), Clip("near", "near")], [elsewhere], at_once=4, most_bytes=1 << 20) as ahead:
        for i, fetched in enumerate(ahead):
            clip = fetched.wait()
            if i < 20:
                assert open(clip.file, "rb").read() == clip.id.encode() * 50
                assert clip.path == f"far/{i}"
            else:
                assert clip.copy is None
            fetched.release()
            del clip
    assert elsewhere.most_at_once == 4
    assert elsewhere.closed


def test_no_more_bytes_are_fetched_than_may_wait():
    elsewhere = Elsewhere()
    with FetchAhead(far(20), [elsewhere], at_once=4, most_bytes=250) as ahead:
        held = [next(ahead) for _ in range(3)]
        time.sleep(0.1)
        for fetched in held:
            fetched.wait()
        time.sleep(0.1)
        assert len(elsewhere.fetched) == 4  # 400 bytes, of which those of three clips were taken
        for fetched in held:
            fetched.release()
        time.sleep(0.1)
        assert len(elsewhere.fetched) > 4
        assert [fetched.wait().id for fetched in ahead] == [f"{i:02d}" for i in range(3, 20)]


def test_what_cannot_be_fetched_is_a_clip_with_a_fault():
    with FetchAhead(far(3), [Elsewhere(bad="01")], at_once=2, most_bytes=1 << 20) as ahead:
        faults = [fetched.wait().fault for fetched in ahead]
    assert faults == [None, ("missing", "no such object"), None]


def test_a_copy_is_given_up_with_the_last_clip_that_has_it():
    with FetchAhead(far(1), [Elsewhere()], at_once=1, most_bytes=1 << 20) as ahead:
        fetched = next(ahead)
        clip = fetched.wait()
        fetched.release()
        path = clip.file
        assert os.path.exists(path)
        del clip
        gc.collect()
        assert not os.path.exists(path)


class Shared(Elsewhere):
    """Has one copy for all clips."""

    copy = Copy(bytes(100))

    def fetch(self, clip: Clip) -> Copy:
        super().fetch(clip)
        return self.copy


def test_a_copy_that_clips_share_counts_once():
    shared = Shared()
    with FetchAhead(far(8), [shared], at_once=4, most_bytes=150) as ahead:
        held = [next(ahead) for _ in range(6)]
        for fetched in held:
            fetched.wait()
        for fetched in held:
            fetched.release()
        assert eventually(lambda: ahead._holders[shared.copy] == 2)
        assert ahead._bytes == 100  # of the two that were not taken
        for fetched in ahead:
            fetched.wait()
            fetched.release()
        assert ahead._bytes == 0


class OnlyLong:
    """A pool that finds each clip too long to be held: at once, as it reads no more than the header."""

    workers = threads = 1
    peak_bytes = 0
    read: Any = None
    apply: Any = None

    def start_thread(self) -> None:
        pass

    def in_worker(self, clips: list[Clip], cancelled: Any) -> list[LoadedClip]:
        return [LoadedClip(ClipInfo(clip, 16000, 1, 1.0, 0, 0, 1, 16000)) for clip in clips]


def test_copies_of_long_clips_that_wait_are_bounded():
    limits = Limits(fetches=2, look_ahead_bytes=250, chunk_clips=1)
    elsewhere = Elsewhere()
    with Prefetcher(far(40), OnlyLong(), limits, fetchers=[elsewhere]) as loaded:  # type: ignore[arg-type]
        for n, event in enumerate(loaded):
            assert event.info.clip.id == f"{n:02d}"
            if n % 8 == 0:
                time.sleep(0.15)
            # This one, three that wait, two in work and two that are fetched.
            assert len(elsewhere.fetched) <= n + 8
    assert len(elsewhere.fetched) == 40

    with Prefetcher(far(40), OnlyLong(), limits, fetchers=[shared := Shared()]) as loaded:  # type: ignore[arg-type]
        assert eventually(lambda: len(shared.fetched) == 40)  # of one file, which is held once
        assert [event.info.clip.id for event in loaded] == [f"{n:02d}" for n in range(40)]
