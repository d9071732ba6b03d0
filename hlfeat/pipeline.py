"""The run: clips are read (and on a CPU computed) ahead by threads, and written in input order.

What ends up in the output depends on the clips and the configuration alone, never on timing. Results come in input
order whatever thread finishes first, and a shard is closed when the next clip would not fit. A run that was killed goes
on from its last finished shard and writes the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hlfeat.busy import CRASHED, Busy
from hlfeat.clip import Clip, place, printable
from hlfeat.compute import computer
from hlfeat.config import Config, shard_bytes
from hlfeat.errors import ClipError, ConfigError, TooManyFailuresError, UsageError
from hlfeat.extractor import Extractor, build
from hlfeat.finishing import Finish, make_finish
from hlfeat.loader import Ahead, Failure, Item
from hlfeat.moments import Moments, nothing
from hlfeat.outdir import OutputDir, disk_error
from hlfeat.parts import WHOLE, Part, shard_place
from hlfeat.progress import Progress, count, duration
from hlfeat.report import Report, device_name, merged, peak_memory, versions
from hlfeat.shards import Record, ShardPlan, ShardWriter
from hlfeat.sidecar import ShardStatistics
from hlfeat.sources import Inputs
from hlfeat.weights import load_weights

log = logging.getLogger("hlfeat")


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what to compute: none of these changes a clip's features beyond rounding."""

    device: str = "auto"
    batch_seconds: float = 64.0
    workers: int = 2
    on_error: str = "skip"
    max_failures: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    update: bool = False
    part: Part = WHOLE
    quiet: bool = False
    weights: Path | None = None
    stats: Path | None = None
    keep: bool = True  # the features; without them, there are index, statistics and failures only


class InterruptedRunError(Exception):
    """The run was asked to stop; what is finished is on the disk."""


def extract(
    config: Config,
    inputs: Inputs,
    out: Path,
    options: Options | None = None,
    *,
    stopped: Callable[[], bool] = lambda: False,
    finished_shard: Callable[[Path], None] = lambda path: None,
    progress: Callable[[int, int, bool], Progress] = Progress,
) -> Report:
    """Features of all clips into `out`; goes on where an earlier run of the same configuration stopped.

    Args:
        config: what to compute.
        inputs: the clips, in order.
        out: the output directory (layout: README, "The output directory").
        options: how to run.
        stopped: asked often; when true, the run ends with InterruptedRunError and can be resumed.
        finished_shard: told the path of each shard once it is complete.
        progress: makes what is told of every clip: (clips, of these done before, quiet).

    Raises:
        UsageError: the output holds other features; an option that cannot be.
        OutputError: the output cannot be written.
        TooManyFailuresError: more clips failed than `options` allow.
        InterruptedRunError: `stopped` said so.
    """
    options = options or Options()
    if not (math.isfinite(options.batch_seconds) and options.batch_seconds > 0):
        raise UsageError(f"expected --batch-seconds above 0, got {options.batch_seconds}")
    if options.on_error not in ("skip", "stop"):
        raise UsageError(f"expected --on-error skip or stop, got {options.on_error}")
    if config.audio.channels == "each" and any(clip.channel is not None for clip in inputs.clips):
        raise UsageError("audio.channels: each goes with whole files, but a manifest names channels")
    device = choose_device(options.device)
    extractor, finish, description = prepare(config, options.weights, options.stats)
    extractor = extractor.eval().to(device)
    if options.weights is None and any(True for _ in extractor.stack.parameters()):
        log.warning("no --weights: the stack's weights are drawn at random from seed %d", config.seed)
    if extractor.stack.reach is None:
        log.info("the stack's instance norm looks at whole clips: long ones are held in memory")
    with OutputDir(out, options.part) as output:
        run = _Run(config, options, extractor, finish, device, output, stopped, finished_shard, progress)
        try:
            if options.part != WHOLE:
                description["inputs"] = described(inputs.clips)
            continued = output.adopt(description, options.overwrite)
            return run.go(inputs.clips[options.part.slice(len(inputs.clips))], continued)
        except OSError as e:
            raise disk_error(e, out) from e


def prepare(config: Config, weights: Path | None, stats: Path | None) -> tuple[Extractor, Finish, dict[str, Any]]:
    """The modules, what is done to their features before these are written, and the contents of hlfeat.yaml.

    Raises ConfigError for what cannot be built, and for weights or statistics that do not fit.
    """
    extractor = build(config)
    digest = load_weights(extractor, weights) if weights else None
    try:
        extractor.follow_centre_freqs()
    except ValueError as e:
        raise ConfigError(f"{weights}: {e}") from e
    finish, stats_digest = make_finish(config, extractor, digest, stats)
    features: dict[str, Any] = {
        "channels": extractor.n_channels,
        "bands": extractor.n_bands,
        "frames_per_second": extractor.sample_rate / extractor.hop,
        "hop_samples": extractor.hop,
    }
    if config.output.pool is not None:
        features |= {"pool": config.output.pool, "dims": finish.shape[0]}
    description = {
        "fingerprint": config.fingerprint(digest, stats_digest),
        "features": features,
        "weights": None if weights is None else {"path": str(weights), "sha256": digest},
        "stats": None if stats is None else {"path": str(stats), "sha256": stats_digest},
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }
    return extractor, finish, description


def described(clips: Sequence[Clip]) -> dict[str, Any]:
    """Which clips these are, for parts to be parts of the same."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(clip.id.encode(errors="surrogatepass") + b"\0")
    return {"clips": len(clips), "sha256": digest.hexdigest()}


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError(f"--device {name}: cannot be used: torch {torch.__version__} finds {found} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: cannot be used: torch finds no Apple GPU")
    return device


def segment(clip: Clip) -> dict[str, str | float | int]:
    """What a clip is of its file, as its index line says it; nothing for the whole file."""
    member = None if clip.span is None else clip.span.member
    keys = {"member": member, "start": clip.start, "end": clip.end, "channel": clip.channel}
    return {k: v for k, v in keys.items() if v is not None}


def plan_of(config: Config, finish: Finish) -> ShardPlan:
    """Where the configuration wants shards to end."""
    size = config.output.shard_size
    return ShardPlan(
        size if isinstance(size, int) else None,
        shard_bytes(size) if isinstance(size, str) else None,
        math.prod(finish.shape) * np.dtype(config.output.dtype).itemsize,
    )


class _Summed:
    """Pieces of a clip on their way to the shard, with the moments of those that have passed."""

    def __init__(self, pieces: Iterable[tuple[np.ndarray, Moments]], *shape: int) -> None:
        self.pieces, self.moments = pieces, nothing(*shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        for features, moments in self.pieces:
            self.moments += moments
            yield features


class _Run:
    """The loop and its state: an open shard, the failures so far."""

    def __init__(
        self,
        config: Config,
        options: Options,
        extractor: Extractor,
        finish: Finish,
        device: torch.device,
        output: OutputDir,
        stopped: Callable[[], bool],
        finished_shard: Callable[[Path], None],
        progress: Callable[[int, int, bool], Progress],
    ) -> None:
        self.config, self.options, self.extractor, self.finish = config, options, extractor, finish
        self.device, self.output, self.stopped, self.finished_shard = device, output, stopped, finished_shard
        self.make_progress = progress
        self.each = config.audio.channels == "each"  # every channel of a file is an entry of its own
        self.dtype = np.dtype(config.output.dtype)
        self.plan = plan_of(config, finish)
        batch_samples = max(1, int(options.batch_seconds * config.audio.sample_rate))
        self.computer = computer(extractor, finish, device, self.dtype, config.audio.channels, batch_samples, stopped)
        self.report = Report(device=device_name(device))
        self.shard: ShardWriter | None = None
        self.taken: set[int] = set()  # numbers of finished shards
        self.number = 0  # of the open shard: the first that is not taken
        self.after_done: set[str] = set()  # clips to do whose predecessor is done
        self.again: dict[str, Record] = {}  # failures of earlier runs that are still to be tried again

    def go(self, clips: Sequence[Clip], continued: bool) -> Report:
        started = time.perf_counter()
        order = {clip.id: i for i, clip in enumerate(clips)}
        if len(order) < len(clips):
            raise UsageError("expected clips of different ids")
        done = self._done(clips, order)
        self._keep_failures(clips, done, order)
        failed = {f["id"] for f in self.report.failures}
        todo = [clip for clip, is_done in zip(clips, done, strict=True) if not is_done and clip.id not in failed]
        self.after_done = (
            {clip.id for before, clip in zip(done, clips[1:], strict=False) if before} if self.holes else set()
        )
        if continued and self.report.clips_before:
            log.info("%d of %d clips are done already", len(clips) - len(todo), len(clips))
        self.progress = self.make_progress(len(clips), len(clips) - len(todo), self.options.quiet)
        if todo:
            self.output.begin()
        threads = torch.get_num_threads()
        try:
            with (
                self._watched(),
                ExitStack() as self.open_shard,
                Ahead(todo, self.options.workers, self._work, self.computer.start_thread) as ahead,
            ):
                self.computer.use(ahead.pool, self.options.workers)
                for item in self.computer.stream(self._planned(self._timed(ahead))):
                    self._check_stopped()
                    if isinstance(item, Item):
                        self._take(item)
                    else:
                        self._fail(*item)
                self._finish_shard()
                assert self.progress.clips == len(clips), "a clip is neither in the index nor among the failures"
        finally:
            torch.set_num_threads(threads)
            self.progress.close()
            self.report.failures = sorted(self._failures(), key=lambda f: order.get(f["id"], len(order)))
            self.output.check_place()
            self.output.write_failures(self.report.failures)
        self.report.spend("total", time.perf_counter() - started)
        self.report.peak_bytes = peak_memory(self.device)
        self.report.complete = self.output.finish(self.report.as_dict(), merged)
        return self.report

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While clips are read, a file says which; it is left behind only by a process that dies."""
        crashed = [f["id"] for f in self.output.failures() if f["code"] == CRASHED]
        with Busy(self.output.folder / self.output.part.file("hlfeat.busy"), crashed) as busy:
            self.computer.loader.reading = busy.reading
            yield

    # --- what earlier runs have done -------------------------------------------------------------------------

    def _done(self, clips: Sequence[Clip], order: Mapping[str, int]) -> bytearray:
        """Which clips are done; with `update`, shards with a clip that has changed since are taken back.

        Refuses another file under the name of a finished clip.
        """
        done = bytearray(len(clips))
        changed = redone = 0
        for number, records in self.output.committed():
            ids = [r["id"].rpartition("#")[0] if self.each else r["id"] for r in records]
            known = [(clips[order[id_]], r) for id_, r in zip(ids, records, strict=True) if id_ in order]
            now = sum(self._has_changed(clip, record) for clip, record in known)
            changed += now
            if now and self.options.update:
                if len(known) < len(records):
                    other = next(r["id"] for id_, r in zip(ids, records, strict=True) if id_ not in order)
                    raise UsageError(
                        f"{self.output.folder}: --update would lose {printable(other)}, which shares a shard with a "
                        "clip that has changed and is not among the inputs"
                    )
                self.output.uncommit(number)
                redone += len(records)
                continue
            self._take_number(number)
            self.report.clips_before += len(records)
            for clip, _ in known:
                done[order[clip.id]] = 1
        self.holes = self.taken != set(range(len(self.taken)))
        if redone:
            log.info("%s changed since: %d in the same shards are computed anew", count(changed, "clip"), redone)
        elif changed:
            log.warning("%d finished clips have changed since; --update computes them anew", changed)
        return done

    def _has_changed(self, clip: Clip, record: Record) -> bool:
        """Whether a finished clip's file is not what it was."""
        keys = ("member", "start", "end") if self.each else ("member", "start", "end", "channel")
        part = {k: v for k, v in record.items() if k in keys}
        if segment(clip) != part:
            whole = "the whole file"
            raise UsageError(
                f"{self.output.folder}: has the id {printable(clip.id)} from {part or whole}, not from "
                f"{segment(clip) or whole}; choose another folder"
            )
        try:
            info = os.stat(clip.path)
        except OSError:
            return False  # gone: its features are still those of the clip
        if (info.st_size, info.st_mtime_ns) == (record.get("size"), record.get("modified")):
            return False
        if clip.path != record["path"]:
            raise UsageError(
                f"{self.output.folder}: has the id {printable(clip.id)} from {printable(record['path'])}, "
                f"not from {printable(clip.path)}; choose another folder"
            )
        return True

    def _keep_failures(self, clips: Sequence[Clip], done: bytearray, order: Mapping[str, int]) -> None:
        """Failures of earlier runs that stand: those beside finished shards, or all, if no clip is left to do.

        What failed after the last finished shard is tried again with the clips around it; with `retry_failed`, all is.
        """
        archives = {clip.path for clip in clips if clip.span is not None}

        def over(f: Record) -> bool:
            """Whether the clip is done, or it is an archive as a whole, whose members alone are inputs now."""
            if f["id"] in order:
                return bool(done[order[f["id"]]])
            return f["path"] in archives and "member" not in f

        earlier = [f for f in self.output.failures() if not over(f)]
        among = sum(f["id"] in order for f in earlier)
        complete = sum(done) + among == len(done)
        for f in earlier:
            at = shard_place(f["shard"])
            stands = complete or (at is not None and at[1] in self.taken)
            # failures of clips that are no input of this run are not this run's to forget
            if f["id"] not in order or (stands and not self.options.retry_failed):
                self.report.failures.append(f)
            else:
                self.again[f["id"]] = f

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
                if self.holes and item.clip.id in self.after_done:  # a hole is filled with what was there
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
            **segment(item.clip),
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
        log.debug("%s: %s, computed piece by piece", place(item.clip), duration(item.duration))
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
        self._take_number(self.number)
        self.report.spend("write", time.perf_counter() - start)
        self.finished_shard(path)

    def _take_number(self, number: int) -> None:
        self.taken.add(number)
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
        log.warning("%s: %s: %s", place(clip), error.code, printable(str(error)))
        if self.options.on_error == "stop":
            raise TooManyFailuresError(f"{place(clip)}: {error.code}: {error} (--on-error stop)")
        if self.options.max_failures is not None and len(self.report.failures) > self.options.max_failures:
            raise TooManyFailuresError(f"more than {self.options.max_failures} clips failed (--max-failures)")

    def _failures(self) -> list[Record]:
        """All that is known to have failed, what is still to be tried again included."""
        return [*self.report.failures, *self.again.values()]

    def _check_stopped(self) -> None:
        if self.stopped():
            raise InterruptedRunError
