"""The run: one loop over clips, which are read ahead, computed, and handed to a sink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch

from hlfeat.audio.clip import Clip
from hlfeat.config.config import Config
from hlfeat.errors import ClipError, InterruptedRunError
from hlfeat.extraction.clock import Clock
from hlfeat.extraction.engine import Engine, StreamedFeatures
from hlfeat.extraction.events import ClipInfo, ComputedClip, Event, FailedClip, ShardBreak, WorkerEvent
from hlfeat.extraction.failures import Failures
from hlfeat.extraction.fetch_ahead import Fetcher
from hlfeat.extraction.options import Limits, Options
from hlfeat.extraction.prefetch import Prefetcher
from hlfeat.extraction.product import Product
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.setup import Pipeline
from hlfeat.extraction.sinks import Sink
from hlfeat.extraction.worker_pool import WorkerPool
from hlfeat.storage.shard_writer import ShardPlan


@dataclass(frozen=True)
class Hooks:
    """What the caller of a run is asked and told.

    Attributes:
        stopped: called often; when it returns True, the run ends with InterruptedRunError.
        finished_shard: called with the path, or URL, of each shard or pitch track that is complete.
        progress: makes the object that counts finished clips: (clips, of these done before, quiet).
    """

    stopped: Callable[[], bool] = lambda: False
    finished_shard: Callable[[Path | str], None] = lambda path: None
    progress: Callable[[int, int, bool], Progress] = Progress


@dataclass(frozen=True)
class Job:
    """What is fixed before the first clip is read.

    Attributes:
        product: what is made of the clips.
        pool: does the engine's work on clips.
        fetchers: bring the bytes of clips that do not lie in files of this machine.
    """

    config: Config
    product: Product
    options: Options
    pipeline: Pipeline
    engine: Engine
    pool: WorkerPool
    device: torch.device
    hooks: Hooks
    limits: Limits
    fetchers: Sequence[Fetcher] = ()

    @property
    def each(self) -> bool:
        """Whether every channel of a file is a clip of its own in the output."""
        return self.config.audio.channels == "each"


@dataclass
class Tally:
    """What a run has finished.

    Attributes:
        clips, seconds: each channel of its own counted, and their duration in seconds.
        truncated: recordings that were cut short and are used nevertheless.
        cut_segments: segments that end a little after their file, and were cut to its end.
        sample_rates: how many of the clips have files of each rate (hertz).
    """

    clips: int = 0
    seconds: float = 0.0
    truncated: int = 0
    cut_segments: int = 0
    sample_rates: Counter[int] = field(default_factory=Counter)

    def copy(self) -> Tally:
        return replace(self, sample_rates=Counter(self.sample_rates))


@dataclass
class ClipRun:
    """The loop over clips, and what it adds to.

    Attributes:
        tally: of what the sink has taken; committed: as it was when the last shard was closed.
    """

    job: Job
    sink: Sink
    failures: Failures
    progress: Progress
    clock: Clock
    tally: Tally = field(default_factory=Tally)
    committed: Tally = field(default_factory=Tally)

    def process(self, clips: Sequence[Clip], fills_gap: frozenset[str], scratch: Path) -> None:
        """Read, compute and write the clips.

        Args:
            fills_gap: ids of clips with which a shard begins, whatever its size.
            scratch: a folder for what does not fit into memory.
        """
        job, clock, engine = self.job, self.clock, self.job.engine
        plan = job.product.shard_plan(job.config, job.pipeline.postprocessor)
        threads = torch.get_num_threads()
        try:
            engine.start_worker()  # what this thread computes of long clips is computed as by a worker
            with self.sink, Prefetcher(clips, job.pool, job.limits, job.hooks.stopped, job.fetchers) as loaded:
                marked = self._mark(clock.timed("wait", loaded), plan, fills_gap)
                with closing(engine.compute(marked, loaded.map, scratch, job.hooks.stopped)) as events:
                    for event in events:
                        self._check_stopped()
                        match event:
                            case ShardBreak():
                                self._commit()
                            case FailedClip():
                                self._fail(event)
                            case ComputedClip():
                                self._write(event)
                self._commit()
        finally:
            torch.set_num_threads(threads)

    def _mark(self, loaded: Iterable[WorkerEvent], plan: ShardPlan, fills_gap: frozenset[str]) -> Iterator[Event]:
        """The same, with a ShardBreak before each clip with which a new shard begins.

        A clip that was read counts even if computing it has failed: whether it has depends on the device.
        """
        extractor, postprocessor = self.job.pipeline.extractor, self.job.pipeline.postprocessor

        @lru_cache(maxsize=4096)  # it asks every layer, and short clips are often of the same length
        def rows_of(length: int) -> int:
            return postprocessor.rows(extractor.num_frames(length))

        for event in loaded:
            info = event.info
            if info is not None:
                breaks = info.clip.id in fills_gap
                if breaks:
                    plan.begin()
                if plan.opens(info.channels_out, rows_of(info.length)) or breaks:
                    yield ShardBreak()
            yield event

    def _write(self, clip: ComputedClip) -> None:
        """Write a clip, or record why not."""
        self.clock.add(clip.seconds)
        info = clip.info
        passage = _Passage(self.progress, info)
        for channel in clip.channels:
            if isinstance(channel, StreamedFeatures):
                channel.passed = passage
        try:
            with self.clock("write"):
                self.sink.write(clip)
        except ClipError as e:  # of a long clip, which is read and computed while it is written
            self._check_stopped()
            self._fail(FailedClip(info.clip, e, info), passage.seconds, passage.part)
            return
        self.failures.resolve(info.clip.id)
        seconds = info.duration * info.channels_out
        self.tally.clips += info.channels_out
        self.tally.seconds += seconds
        self.tally.truncated += info.shortfall is not None
        self.tally.cut_segments += info.overshoots
        self.tally.sample_rates[info.sample_rate] += info.channels_out
        self.progress.add(1, seconds - passage.seconds, -passage.part)

    def _fail(self, failed: FailedClip, seconds: float = 0.0, part: float = 0.0) -> None:
        """Record a clip that failed, of which so much was counted on the way."""
        self.clock.add(failed.seconds)
        self.progress.add(1, -seconds, -part)
        self.failures.add(failed, self.sink.shard_name)

    def _commit(self) -> None:
        """Close the shard and report it."""
        with self.clock("write"):
            paths = self.sink.commit()
        self.committed = self.tally.copy()
        for path in paths:
            self.job.hooks.finished_shard(path)

    def _check_stopped(self) -> None:
        if self.job.hooks.stopped():
            raise InterruptedRunError


class _Passage:
    """Counts the audio of a long clip as it goes through, block by block.

    Attributes:
        seconds, part: that were counted, at most all of the clip.
    """

    def __init__(self, progress: Progress, info: ClipInfo) -> None:
        self._progress, self._rate, self._whole = progress, info.sample_rate, info.duration * info.channels_out
        self.seconds = self.part = 0.0

    def __call__(self, samples: int) -> None:
        seconds = min(samples / self._rate, self._whole - self.seconds)
        part = seconds / self._whole if self._whole else 0.0
        self.seconds += seconds
        self.part += part
        self._progress.add(0, seconds, part)
