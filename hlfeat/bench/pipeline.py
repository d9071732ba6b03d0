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
from hlfeat.bench.frontend import LogMel
from hlfeat.bench.tables import Row, append_table
from hlfeat.bench.timing import Runs, time_interleaved
from hlfeat.config.config import Config
from hlfeat.errors import ClipError, UsageError
from hlfeat.extraction.clip_loader import ClipLoader, Failure, Item
from hlfeat.extraction.engine import Engine
from hlfeat.extraction.extract import extract
from hlfeat.extraction.options import Options
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import Prefetcher
from hlfeat.extraction.setup import make_engine, plan_of, prepare
from hlfeat.extraction.streaming import WINDOW_SAMPLES
from hlfeat.inputs.clip_list import Inputs
from hlfeat.nn.extractor import Extractor
from hlfeat.statistics.moments import Moments, no_moments
from hlfeat.storage.layout import Layout, ShardFiles
from hlfeat.storage.records import IndexEntry
from hlfeat.storage.shard_writer import ShardWriter

HELD_BYTES = 1 << 30  # decoded audio of the clips that are measured
WRITTEN_FRAMES = WINDOW_SAMPLES // 160  # of a long clip, at once

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


class Reading(Engine):
    """Reads, and computes nothing."""

    def __init__(self, like: Engine, channels: str | int, resample: bool) -> None:
        super().__init__(like.extractor, like.finish, torch.device("cpu"), like.dtype, channels)
        self.resample = resample

    def start_thread(self) -> None:
        torch.set_num_threads(1)

    def _read(self, clip: Clip, cancelled: Callable[[], bool]) -> Item:
        return self.loader(clip, cancelled, self.resample)

    def stream(self, items: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        return iter(items)

    def long(
        self, item: Item, entry: int, folder: Path, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[np.ndarray, Moments]]:
        none = no_moments(*self.finish.shape)
        for piece in self.loader.pieces(item, entry, cancelled):
            yield (self.resampler(piece, item.sample_rate) if self.resample else piece).numpy(), none


@dataclass
class Held:
    """Clips that have been read: their items as the engine gets them, and the samples of long ones."""

    clips: list[Clip] = field(default_factory=list)
    items: dict[str, Item] = field(default_factory=dict)
    pieces: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    failed: int = 0

    @property
    def seconds(self) -> float:
        """Of audio, each entry counted."""
        return sum(item.duration * item.entries for item in self.items.values())


class FromMemory(ClipLoader):
    """A loader that has read everything before."""

    def __init__(self, like: ClipLoader, held: Held) -> None:
        super().__init__(like.resampler, like.channels)
        self.held = held

    def __call__(self, clip: Clip, cancelled: Callable[[], bool], resample: bool = True) -> Item:
        item = self.held.items[clip.id]
        return replace(item, waveforms=list(item.waveforms), features=[], seconds={}, opens_shard=False)

    def pieces(self, item: Item, entry: int, cancelled: Callable[[], bool]) -> Iterator[Tensor]:
        yield from self.held.pieces[item.clip.id, entry]


def hold(computer: Engine, clips: Iterable[Clip], most: int = HELD_BYTES) -> Held:
    """Read clips as the computer wants them, until so many bytes are held; those that cannot be read are left out."""
    held, size = Held(), 0
    for clip in clips:
        (found,) = Engine.work(computer, [clip], lambda: False)
        if not isinstance(found, Item):
            held.failed += 1
            continue
        try:
            pieces = {
                (clip.id, e): list(computer.loader.pieces(found, e, lambda: False))
                for e in range(found.entries if found.long else 0)
            }
        except ClipError:
            held.failed += 1
            continue
        held.clips.append(clip)
        held.items[clip.id] = found
        held.pieces |= pieces
        size += found.nbytes + sum(p.nbytes for parts in pieces.values() for p in parts)
        if size >= most:
            break
    if not held.clips:
        raise UsageError("expected clips that can be read, found none")
    return held


def consume(computer: Engine, clips: Sequence[Clip], workers: int, folder: Path) -> None:
    """The engine without its end: what comes out is thrown away."""
    threads = torch.get_num_threads()
    try:
        with Prefetcher(clips, workers, computer.work, computer.start_thread) as ahead:
            computer.use(ahead.pool, workers)
            for item in computer.stream(ahead):
                if isinstance(item, Item) and item.long:
                    for e in range(item.entries):
                        for _ in computer.long(item, e, folder, lambda: False):
                            pass
    finally:
        torch.set_num_threads(threads)


def write(
    config: Config, extractor: Extractor, finish: PostProcessor, held: Held, block: np.ndarray, folder: Path
) -> None:
    """Shards of the clips' size, with their index, as a run writes them."""
    plan = plan_of(config, finish)
    number = -1
    with ExitStack() as stack:
        shard: ShardWriter | None = None
        for clip in held.clips:
            item = held.items[clip.id]
            rows = finish.rows(extractor.num_frames(item.length))
            if plan.opens(item.entries, rows) or shard is None:
                if shard is not None:
                    shard.commit()
                    stack.close()
                number += 1
                shard = stack.enter_context(
                    ShardWriter(ShardFiles(Layout(folder), number), config.output.format, block.dtype, *finish.shape)
                )
            for e in range(item.entries):
                entry = IndexEntry(f"{clip.id}#{e}", clip.path, duration=item.duration)
                shard.append(entry, pieces_of(block, rows))
        if shard is not None:
            shard.commit()


def pieces_of(block: np.ndarray, frames: int) -> Iterator[np.ndarray]:
    """So many frames, from the beginning of the block again and again."""
    for start in range(0, frames, len(block)):
        yield block[: frames - start]


def plain_loop(clips: Sequence[Clip], rate: int, folder: Path) -> None:
    """soundfile.read, mixed and resampled to one rate, torchaudio's log-mel, numpy.save."""
    log_mel = LogMel()
    with torch.inference_mode():
        for n, clip in enumerate(clips):
            samples, own = soundfile.read(clip.path, dtype="float32", always_2d=True)
            x = torch.from_numpy(samples.mean(1, keepdims=True).T if samples.shape[1] > 1 else samples.T)
            y = log_mel(AF.resample(x, own, rate) if own != rate else x)
            np.save(folder / f"{n}.npy", y[0].T.contiguous().numpy())


def measure(
    name: str, config: Config, clips: Sequence[Clip], options: Options, device: torch.device, scratch: Path, laps: int
) -> list[Row]:
    """A row a stage, for one configuration. `laps`: runs of each, after one that does not count."""
    extractor, finish, _ = prepare(config, None, None)
    extractor = extractor.eval().to(device)
    dtype = np.dtype(config.output.dtype)
    batch = max(1, int(options.batch_seconds * config.audio.sample_rate))
    computing = make_engine(extractor, finish, device, dtype, config.audio.channels, batch, lambda: False)
    held = hold(computing, clips)
    computing.loader = FromMemory(computing.loader, held)
    reading = {
        stage: Reading(computing, config.audio.channels, resample)
        for stage, resample in ((DECODE, False), (RESAMPLE, True))
    }
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
        DECODE: emptied(lambda folder: consume(reading[DECODE], held.clips, options.workers, folder)),
        RESAMPLE: emptied(lambda folder: consume(reading[RESAMPLE], held.clips, options.workers, folder)),
        COMPUTE: emptied(lambda folder: consume(computing, held.clips, options.workers, folder)),
        WRITE: emptied(lambda folder: write(config, extractor, finish, held, block, folder)),
        WHOLE: emptied(lambda folder: extract(config, inputs, folder, quiet)),
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
    tell_verdict: Callable[[str], None],
) -> list[Row]:
    """All stages for each configuration; `say` is told the table as it grows."""
    rows: list[Row] = []
    for name, config in configs.items():
        new = measure(name, config, inputs.clips, options, device, scratch, laps)
        append_table(new, COLUMNS, say, first=not rows)
        tell_verdict(verdict(new, device.type == "cpu"))
        rows += new
    return rows
