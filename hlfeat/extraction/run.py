"""The run: one loop over clips that have been read, with an open shard and the failures so far."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from hlfeat.audio.clip import Clip, display_path
from hlfeat.config.config import Config
from hlfeat.errors import ClipError, InterruptedRunError, TooManyFailuresError, UsageError
from hlfeat.extraction.clip_loader import Failure, Item
from hlfeat.extraction.crash_guard import CrashGuard
from hlfeat.extraction.decode_probe import CRASHED
from hlfeat.extraction.options import Options
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import Prefetcher
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.report import Report, merge_reports
from hlfeat.extraction.resume import scan_output
from hlfeat.extraction.setup import make_engine, plan_of
from hlfeat.nn.device import device_name, peak_memory
from hlfeat.nn.extractor import Extractor
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.statistics.shard_statistics import ShardStatistics
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.records import Record
from hlfeat.storage.shard_writer import ShardWriter
from hlfeat.text import duration, escape_unprintable

log = logging.getLogger("hlfeat")


class _Summed:
    """Pieces of a clip on their way to the shard, with the moments of those that have passed."""

    def __init__(self, pieces: Iterable[tuple[np.ndarray, Moments]], *shape: int) -> None:
        self.pieces, self.moments = pieces, no_moments(*shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        for features, moments in self.pieces:
            self.moments += moments
            yield features


class Run:
    """The loop and its state: an open shard, the failures so far. It begins with what earlier runs have left."""

    def __init__(
        self,
        clips: Sequence[Clip],
        config: Config,
        options: Options,
        extractor: Extractor,
        finish: PostProcessor,
        device: torch.device,
        output: OutputDir,
        stopped: Callable[[], bool],
        finished_shard: Callable[[Path], None],
        progress: Callable[[int, int, bool], Progress],
    ) -> None:
        self.started = time.perf_counter()
        self.config, self.options, self.extractor, self.finish = config, options, extractor, finish
        self.device, self.output, self.stopped, self.finished_shard = device, output, stopped, finished_shard
        self.each = config.audio.channels == "each"  # every channel of a file is an entry of its own
        self.dtype = np.dtype(config.output.dtype)
        self.plan = plan_of(config, finish)
        batch_samples = max(1, int(options.batch_seconds * config.audio.sample_rate))
        self.computer = make_engine(
            extractor, finish, device, self.dtype, config.audio.channels, batch_samples, stopped
        )

        self.order = {clip.id: i for i, clip in enumerate(clips)}
        if len(self.order) < len(clips):
            raise UsageError("expected clips of different ids")
        earlier = scan_output(
            output, clips, self.order, each=self.each, update=options.update, retry_failed=options.retry_failed
        )
        self.report = Report(
            device=device_name(device),
            clips_before=earlier.entries,
            seconds_before=earlier.seconds,
            failures=earlier.failures,
        )
        failed = {f["id"] for f in earlier.failures}
        self.todo = [c for c, done in zip(clips, earlier.done, strict=True) if not done and c.id not in failed]
        self.again = earlier.again  # failures of earlier runs that are still to be tried again
        self.after_done: set[str] = set()  # clips to do whose predecessor is done, if a shard is missing
        if earlier.holes:
            self.after_done = {c.id for before, c in zip(earlier.done, clips[1:], strict=False) if before}
        if self.report.clips_before:
            log.info("%d of %d clips are done already", len(clips) - len(self.todo), len(clips))
        self.progress = progress(len(clips), len(clips) - len(self.todo), options.quiet)

        self.shard: ShardWriter | None = None
        self.open_shard = ExitStack()  # closes it, whatever happens
        self.statistics = ShardStatistics.of(*finish.shape)  # of the open shard
        self.taken = earlier.shards  # numbers of finished shards
        self.number = 0  # of the open shard: the first that is not taken
        self._next_number()

    def go(self) -> Report:
        if self.todo:
            self.output.begin()
        threads = torch.get_num_threads()
        try:
            with (
                self._watched(),
                self.open_shard,
                Prefetcher(self.todo, self.options.workers, self._work, self.computer.start_thread) as ahead,
            ):
                self.computer.use(ahead.pool, self.options.workers)
                for item in self.computer.stream(self._planned(self._timed(ahead))):
                    self._check_stopped()
                    if isinstance(item, Item):
                        self._take(item)
                    else:
                        self._fail(*item)
                self._finish_shard()
                assert self.progress.clips == len(self.order), "a clip is neither in the index nor among the failures"
        finally:
            torch.set_num_threads(threads)
            self.progress.close()
            self.report.failures = sorted(self._failures(), key=lambda f: self.order.get(f["id"], len(self.order)))
            self.output.check_place()
            self.output.write_failures(self.report.failures)
        self.report.spend("total", time.perf_counter() - self.started)
        self.report.peak_bytes = peak_memory(self.device)
        self.report.complete = self.output.finish(self.report.as_dict(), merge_reports)
        return self.report

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While clips are read, a file says which; it is left behind only by a process that dies."""
        crashed = [f["id"] for f in self.output.failures() if f["code"] == CRASHED]
        with CrashGuard(self.output.folder / self.output.part.file("hlfeat.busy"), crashed) as busy:
            self.computer.loader.reading = busy.reading
            yield

    # --- clips and shards ------------------------------------------------------------------------------------

    def _work(self, clips: list[Clip], over: Callable[[], bool]) -> list[Item | Failure]:
        return self.computer.work(clips, lambda: over() or self.stopped())

    def _timed(self, items: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        """The same, with the time spent waiting for them counted."""
        source = iter(items)
        while True:
            start = time.perf_counter()
            item = next(source, None)
            self.report.spend("wait", time.perf_counter() - start)
            if item is None:
                return
            yield item

    def _planned(self, items: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        """The same, told with which a new shard begins."""
        for item in items:
            if isinstance(item, Item):
                frames = self.extractor.num_frames(item.length)
                if item.clip.id in self.after_done:  # a hole is filled with what was there
                    self.plan.begin()
                    item.opens_shard = True
                item.opens_shard |= self.plan.opens(item.entries, self.finish.rows(frames))
            yield item

    def _take(self, item: Item) -> None:
        """Write a clip, or say why not."""
        if item.opens_shard:
            self._finish_shard()
        for stage, seconds in item.seconds.items():
            self.report.spend(stage, seconds)
        failed = next((y for y in item.features if isinstance(y, ClipError)), None)
        if failed is None:
            try:
                self._write(item)
                return
            except ClipError as e:  # of a long clip, which is read and computed while it is written
                failed = e
        self._check_stopped()
        self._fail(item.clip, failed)

    def _write(self, item: Item) -> None:
        start = time.perf_counter()
        if self.shard is None:
            name = self.output.part.shard(self.number)
            form, keep, shape = self.config.output.format, self.options.keep, self.finish.shape
            writer = ShardWriter(self.output.folder, name, form, self.dtype, *shape, keep=keep)
            self.shard = self.open_shard.enter_context(writer)
            self.statistics = ShardStatistics.of(*shape)
        record = {
            "path": item.clip.path,
            "duration": item.duration,
            "sample_rate": item.sample_rate,
            "channels": item.file_channels,
            "size": item.size,
            "modified": item.modified,
            **item.clip.segment,
        }
        entries: list[tuple[str, Moments]] = []
        for c in range(item.entries):
            id_, channel = (f"{item.clip.id}#{c}", {"channel": c}) if self.each else (item.clip.id, {})
            pieces = _Summed(self._pieces(item, c), *self.finish.shape)
            try:
                self.shard.append({"id": id_, **record, **channel}, pieces)
            except ClipError:
                self.shard.drop(c)
                raise
            entries.append((id_, pieces.moments))
        for (id_, moments), silent in zip(entries, item.silent, strict=True):
            self.statistics.add(id_, moments, silent)
        self.again.pop(item.clip.id, None)
        self.report.spend("write", time.perf_counter() - start)
        self.report.clips += item.entries
        self.report.audio_seconds += item.duration * item.entries
        self.progress.add(1, item.duration * item.entries)

    def _pieces(self, item: Item, entry: int) -> Iterable[tuple[np.ndarray, Moments]]:
        """Features of one entry of a clip, and their moments."""
        return self._long(item, entry) if item.long else [(item.features[entry], item.moments[entry])]  # type: ignore[list-item]

    def _long(self, item: Item, entry: int) -> Iterator[tuple[np.ndarray, Moments]]:
        """Those of a long clip, with the time that they take counted as computing."""
        log.debug("%s: %s, computed piece by piece", display_path(item.clip), duration(item.duration))
        source = self.computer.long(item, entry, self.output.folder, self.stopped)
        while True:
            start = time.perf_counter()
            y = next(source, None)
            spent = time.perf_counter() - start
            self.report.spend("compute", spent)
            self.report.spend("write", -spent)
            if y is None:
                return
            yield y

    def _finish_shard(self) -> None:
        """Record the failures so far, then publish: the index is the last thing to appear."""
        if self.shard is None or not self.shard.records:
            return
        start = time.perf_counter()
        self.output.check_place()
        self.output.write_failures(self._failures())
        path = self.shard.commit(self.statistics.dump())
        self.open_shard.close()
        self.shard = None
        self.taken.add(self.number)
        self._next_number()
        self.report.spend("write", time.perf_counter() - start)
        self.finished_shard(path)

    def _next_number(self) -> None:
        while self.number in self.taken:
            self.number += 1

    # --- failures and stopping -------------------------------------------------------------------------------

    def _fail(self, clip: Clip, error: ClipError) -> None:
        before = self.again.pop(clip.id, None)  # its shard stays, or it would tell how often the run was killed
        record = {"id": clip.id, "path": clip.path, "code": error.code, "message": str(error)}
        record["shard"] = before["shard"] if before else self.output.part.shard(self.number)
        if clip.span is not None:
            record["member"] = clip.span.member
        self.report.failures.append(record)
        self.progress.add(1, 0.0)
        log.warning("%s: %s: %s", display_path(clip), error.code, escape_unprintable(str(error)))
        if self.options.on_error == "stop":
            raise TooManyFailuresError(f"{display_path(clip)}: {error.code}: {error}", remedy="on_error")
        if self.options.max_failures is not None and len(self.report.failures) > self.options.max_failures:
            raise TooManyFailuresError(f"more than {self.options.max_failures} clips failed", remedy="max_failures")

    def _failures(self) -> list[Record]:
        """All that is known to have failed, what is still to be tried again included."""
        return [*self.report.failures, *self.again.values()]

    def _check_stopped(self) -> None:
        if self.stopped():
            raise InterruptedRunError
