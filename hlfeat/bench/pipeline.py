"""`hlfeat bench pipeline`: where the time of `hlfeat extract` goes on this machine.

Each stage of the engine runs alone, with the threads that the whole has: decoding, decoding and resampling, computing
on clips that are in memory, writing shards of the right size. On a CPU the threads that decode also compute, so the
least that a run can take is both, one after the other; on another device it is whichever takes longer.

Next to them is what many people have instead: a loop of soundfile.read, torchaudio's log-mel and numpy.save, one file
a clip, with torch's own threads. Nothing counts the start of Python and torch; files have been read before.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio.functional as AF
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.resample import Resampler
from hlfeat.bench.frontend import LogMel
from hlfeat.bench.tables import Row, append_table
from hlfeat.bench.timing import Runs, time_interleaved
from hlfeat.config.config import Config
from hlfeat.errors import ClipError, UsageError
from hlfeat.extraction.clip_loader import Cancelled, ClipLoader
from hlfeat.extraction.engine import Engine
from hlfeat.extraction.events import (
    ClipInfo,
    ComputedClip,
    Event,
    FailedClip,
    HeldFeatures,
    LoadedClip,
    WorkerEvent,
)
from hlfeat.extraction.extract import extract_clips
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import PoolMap, Prefetcher
from hlfeat.extraction.setup import make_engine, make_shard_plan, prepare
from hlfeat.extraction.worker_pool import make_pool
from hlfeat.inputs.collect import Inputs
from hlfeat.nn.extractor import Extractor
from hlfeat.statistics.moments import no_moments
from hlfeat.storage.layout import Layout, ShardFiles
from hlfeat.storage.records import IndexEntry
from hlfeat.storage.shard_writer import ShardWriter

HELD_BYTES = 1 << 30  # decoded audio of the clips that are measured
WRITTEN_FRAMES = DEFAULT_LIMITS.window_samples // 160  # of a long clip, at once

COLUMNS = {
    "config": "configuration",
    "stage": "stage",
    "seconds": "seconds|.2f",
    "real_time": "times real time|.0f",
    "clips_a_second": "clips a second|.0f",
    "to_decode": "speed / decode|.2f",
    "to_plain": "speed / plain loop|.2f",
    "to_bound": "speed / bound|.2f",
    "mib": "memory, MiB|.0f",
    "runs": "runs|d",
}

DECODE, RESAMPLE, COMPUTE, WRITE, WHOLE, PLAIN = (
    "decode", "decode + resample", "compute", "write", "whole", "plain loop, log-mel"
)  # fmt: skip


class ReadingEngine:
    """Reads clips and computes nothing; an Engine."""

    def __init__(self, loader: ClipLoader, row_shape: tuple[int, ...], resample: bool) -> None:
        self._loader, self._row_shape, self._resample = loader, row_shape, resample

    def start_worker(self) -> None:
        torch.set_num_threads(1)

    def in_worker(self, clips: list[Clip], cancelled: Cancelled) -> list[WorkerEvent]:
        return self._loader.load_all(clips, cancelled, self._resample)

    def compute(self, stream: Iterable[Event]) -> Iterator[Event]:
        return iter(stream)

    def compute_long(self, loaded: LoadedClip, pool: PoolMap, scratch: Path, cancelled: Cancelled) -> ComputedClip:
        for channel in range(loaded.info.channels_out):
            for chunk in pool.read(loaded.info, channel, cancelled):
                if self._resample:
                    self._loader.resampler(chunk, loaded.info.sample_rate)
        return ComputedClip(loaded.info, [self._nothing() for _ in range(loaded.info.channels_out)])

    def apply(self, step: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def read(self, info: ClipInfo, channel: int, cancelled: Cancelled) -> Iterator[Tensor]:
        return self._loader.channel_chunks(info, channel, cancelled)

    def shares_pass(self, clip: Clip) -> bool:
        return self._loader.shares_pass(clip)

    def _nothing(self) -> HeldFeatures:
        return HeldFeatures(np.zeros((0, *self._row_shape)), no_moments(*self._row_shape), silent=False)


@dataclass
class Held:
    """Clips that have been read: as the engine gets them, and the samples of the channels of long ones."""

    clips: list[Clip] = field(default_factory=list)
    loaded: dict[str, LoadedClip] = field(default_factory=dict)
    chunks: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    failed: int = 0

    @property
    def seconds(self) -> float:
        """Of audio, each channel that is kept counted."""
        infos = (loaded.info for loaded in self.loaded.values())
        return sum(info.duration * info.channels_out for info in infos)


class MemoryLoader(ClipLoader):
    """A loader of clips that have been read before."""

    def __init__(self, loader: ClipLoader, held: Held) -> None:
        super().__init__(loader.resampler, loader.channels, DEFAULT_LIMITS)
        self.held = held

    def load(self, clip: Clip, cancelled: Cancelled, resample: bool = True) -> LoadedClip | FailedClip:
        return replace(self.held.loaded[clip.id], seconds={})

    def channel_chunks(self, info: ClipInfo, channel: int, cancelled: Cancelled) -> Iterator[Tensor]:
        yield from self.held.chunks[info.clip.id, channel]


def hold(loader: ClipLoader, clips: Iterable[Clip], resample: bool, most: int = HELD_BYTES) -> Held:
    """Read clips until so many bytes are held; those that cannot be read are left out.

    Args:
        resample: whether they are resampled too, as an engine on a CPU wants them; others resample themselves.
    """
    held, size = Held(), 0
    for clip in clips:
        loaded = loader.load(clip, lambda: False, resample)
        try:
            if isinstance(loaded, FailedClip):
                raise loaded.error
            channels = range(loaded.info.channels_out if loaded.long else 0)
            chunks = {(clip.id, c): list(loader.channel_chunks(loaded.info, c, lambda: False)) for c in channels}
        except ClipError:
            held.failed += 1
            continue
        held.clips.append(clip)
        held.loaded[clip.id] = loaded
        held.chunks |= chunks
        size += loaded.nbytes + sum(x.nbytes for channel in chunks.values() for x in channel)
        if size >= most:
            break
    if not held.clips:
        raise UsageError("expected clips that can be read, found none")
    return held


def consume(
    engine: Engine,
    clips: Sequence[Clip],
    workers: int,
    scratch: Path,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Clips through an engine, and nothing is written."""
    threads = torch.get_num_threads()
    try:
        with make_pool(engine, workers) as pool, Prefetcher(clips, pool, limits) as loaded:
            for event in engine.compute(loaded):
                if isinstance(event, LoadedClip) and event.long:
                    for channel in engine.compute_long(event, loaded.map, scratch, lambda: False).channels:
                        for _ in channel:
                            pass
    finally:
        torch.set_num_threads(threads)


def write(
    config: Config, extractor: Extractor, finish: PostProcessor, held: Held, block: np.ndarray, folder: Path
) -> None:
    """Shards of the clips' size, with their index, as a run writes them."""
    plan = make_shard_plan(config, finish)
    number = -1
    with ExitStack() as stack:
        shard: ShardWriter | None = None
        for clip in held.clips:
            info = held.loaded[clip.id].info
            rows = finish.rows(extractor.num_frames(info.length))
            if plan.opens(info.channels_out, rows) or shard is None:
                if shard is not None:
                    shard.commit()
                    stack.close()
                number += 1
                shard = stack.enter_context(
                    ShardWriter(ShardFiles(Layout(folder), number), config.output.format, block.dtype, *finish.shape)
                )
            for e in range(info.channels_out):
                entry = IndexEntry(f"{clip.id}#{e}", clip.path, duration=info.duration)
                shard.append(entry, chunks_of(block, rows))
        if shard is not None:
            shard.commit()


def chunks_of(block: np.ndarray, frames: int) -> Iterator[np.ndarray]:
    """So many frames, from the beginning of the block again and again."""
    for start in range(0, frames, len(block)):
        yield block[: frames - start]


def plain_loop(clips: Sequence[Clip], rate: int, folder: Path) -> None:
    """soundfile.read, mixed and resampled to one rate, torchaudio's log-mel, numpy.save."""
    log_mel = LogMel()
    with torch.inference_mode():
        for n, clip in enumerate(clips):
            samples, file_rate = soundfile.read(clip.path, dtype="float32", always_2d=True)
            x = torch.from_numpy(samples.mean(1, keepdims=True).T if samples.shape[1] > 1 else samples.T)
            y = log_mel(AF.resample(x, file_rate, rate) if file_rate != rate else x)
            np.save(folder / f"{n}.npy", y[0].T.contiguous().numpy())


def measure(
    name: str,
    config: Config,
    clips: Sequence[Clip],
    options: Options,
    device: torch.device,
    scratch: Path,
    laps: int,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Row]:
    """A row a stage, for one configuration. `laps`: runs of each, after one that does not count."""
    extractor, finish, _ = prepare(config, None, None)
    extractor = extractor.eval().to(device)
    dtype = np.dtype(config.output.dtype)
    batch = max(1, int(options.batch_seconds * config.audio.sample_rate))
    loader = ClipLoader(Resampler(extractor.sample_rate), config.audio.channels, limits)
    held = hold(loader, clips, resample=device.type == "cpu")
    computing = make_engine(extractor, finish, MemoryLoader(loader, held), device, dtype, batch, lambda: False, limits)
    decoding = ReadingEngine(loader, finish.shape, resample=False)
    resampling = ReadingEngine(loader, finish.shape, resample=True)
    block = np.zeros((WRITTEN_FRAMES, *finish.shape), dtype)

    def emptied(call: Callable[[Path], object]) -> Callable[[], None]:
        def run() -> None:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            try:
                call(folder)
            finally:
                shutil.rmtree(folder)

        return run

    inputs = Inputs(held.clips)
    quiet = replace(options, quiet=True)
    calls = {
        DECODE: emptied(lambda folder: consume(decoding, held.clips, options.workers, folder, limits)),
        RESAMPLE: emptied(lambda folder: consume(resampling, held.clips, options.workers, folder, limits)),
        COMPUTE: emptied(lambda folder: consume(computing, held.clips, options.workers, folder, limits)),
        WRITE: emptied(lambda folder: write(config, extractor, finish, held, block, folder)),
        WHOLE: emptied(lambda folder: extract_clips(config, inputs, folder, quiet, limits=limits)),
    }
    if all(clip.span is None and clip.start is None and clip.end is None for clip in held.clips):
        calls[PLAIN] = emptied(lambda folder: plain_loop(held.clips, config.audio.sample_rate, folder))
    runs = time_interleaved(calls, device, seconds=0.0, least=laps, patience=float("inf"))
    return rows_of(name, runs, held, on_cpu=device.type == "cpu")


def bound(seconds: Mapping[str, float], on_cpu: bool) -> float:
    """The least that a whole run can take, from the stages alone: on a CPU they share its cores."""
    if on_cpu:
        return seconds[RESAMPLE] + seconds[COMPUTE]
    return max(seconds[DECODE], seconds[COMPUTE], seconds[WRITE])


def rows_of(name: str, runs: Mapping[str, Runs], held: Held, on_cpu: bool) -> list[Row]:
    """The figures of one configuration."""
    seconds = {stage: r.typical for stage, r in runs.items()}
    audio = held.seconds
    rows: list[Row] = []
    for stage, r in runs.items():
        row: dict[str, Any] = {
            "config": name,
            "stage": stage,
            "seconds": seconds[stage],
            "real_time": audio / seconds[stage],
            "clips_a_second": len(held.clips) / seconds[stage],
            "to_decode": seconds[DECODE] / seconds[stage],
            "to_plain": seconds[PLAIN] / seconds[stage] if PLAIN in seconds else None,
            "to_bound": bound(seconds, on_cpu) / seconds[stage] if stage == WHOLE else None,
            "mib": None if r.peak is None else r.peak / 2**20,
            "runs": len(r.seconds),
            "clips": len(held.clips),
            "hours": audio / 3600,
            "failed": held.failed,
        }
        rows.append(row)
    return rows


def verdict(rows: Sequence[Row], on_cpu: bool) -> str:
    """In words: how far the whole is from what its stages allow, and which of them takes most."""
    seconds = {row["stage"]: row["seconds"] for row in rows}
    whole = next(row for row in rows if row["stage"] == WHOLE)
    stages = {s: seconds[s] for s in (RESAMPLE if on_cpu else DECODE, COMPUTE, WRITE)}
    most = max(stages, key=stages.__getitem__)
    rule = "decode + resample and compute share the cores" if on_cpu else "stages overlap"
    return (
        f"{whole['config']}: {whole['clips']} clips, {whole['hours']:.2f} h; {most} takes most. {rule.capitalize()}: "
        f"{bound(seconds, on_cpu):.2f} s at least, {seconds[WHOLE]:.2f} s taken."
    )


def run(
    configs: Mapping[str, Config],
    inputs: Inputs,
    options: Options,
    device: torch.device,
    scratch: Path,
    laps: int,
    say: Callable[[str], None],
    write_verdict: Callable[[str], None],
) -> list[Row]:
    """All stages for each configuration; `say` is called with the lines of the table as they are finished."""
    rows: list[Row] = []
    for name, config in configs.items():
        new = measure(name, config, inputs.clips, options, device, scratch, laps)
        append_table(new, COLUMNS, say, first=not rows)
        write_verdict(verdict(new, device.type == "cpu"))
        rows += new
    return rows
