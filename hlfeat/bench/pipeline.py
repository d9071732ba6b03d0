"""`hlfeat bench pipeline`: where the time of `hlfeat extract` goes on this machine.

Each stage of the engine runs alone, with the workers that the whole has: decoding, decoding and resampling, computing
on clips that are in memory, writing shards of the right size. On a CPU the workers that decode also compute, so the
least that a run can take is both, one after the other; on another device it is whichever takes longer.

With an engine that returns zeros, reading and writing are measured without any computing. The whole can be measured
with fewer workers too, to see what each core adds.

Next to them is what many people have instead: a loop of soundfile.read, torchaudio's log-mel and numpy.save, one file
a clip, with torch's own threads. Nothing counts the start of Python and torch; files have been read before.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio.functional as AF

from hlfeat.audio.clip import Clip
from hlfeat.audio.resample import Resampler
from hlfeat.bench.cut_clips import cut
from hlfeat.bench.frontend import LogMel
from hlfeat.bench.held_clips import HELD_BYTES, Held, MemoryLoader, hold
from hlfeat.bench.results import Done
from hlfeat.bench.stage_engines import ROWS_AT_ONCE, ReadingEngine, make_zeros_engine
from hlfeat.bench.tables import Row
from hlfeat.bench.timing import Runs, time_interleaved
from hlfeat.config.config import Config
from hlfeat.extraction.clip_loader import ClipLoader
from hlfeat.extraction.engine import Engine
from hlfeat.extraction.events import ComputedClip
from hlfeat.extraction.extract import check_channels
from hlfeat.extraction.one_device import extract_on_device
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.prefetch import Prefetcher
from hlfeat.extraction.process_pool import make_pool
from hlfeat.extraction.run import Hooks
from hlfeat.extraction.setup import make_engine, make_loader, make_shard_plan, prepare
from hlfeat.inputs.collect import Inputs
from hlfeat.nn.extractor import Extractor
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import Layout, ShardFiles
from hlfeat.storage.shard_writer import ShardWriter
from hlfeat.text import count

COLUMNS = {
    "config": "configuration",
    "stage": "stage",
    "seconds": "seconds|.2f",
    "real_time": "times real time|.0f",
    "clips_a_second": "clips a second|.0f",
    "to_decode": "speed / decode|.2f",
    "to_plain": "speed / plain loop|.2f",
    "to_bound": "speed / bound|.2f",
    "to_one_worker": "speed / 1 worker|.2f",
    "mib": "memory, MiB|.0f",
    "runs": "runs|d",
}

DECODE, RESAMPLE, COMPUTE, WRITE, WHOLE, PLAIN = (
    "decode", "decode + resample", "compute", "write", "whole", "plain loop, log-mel"
)  # fmt: skip


CUT_CLIPS = 4000  # of one length, if nothing else is said


@dataclass(frozen=True)
class Choices:
    """What is measured.

    Attributes:
        clip_seconds: clips of this length are made of the inputs, and measured in their place.
        clips: the number of clips that are made, or of the inputs the first so many; None: CUT_CLIPS, or all.
        zeros: an engine that computes nothing takes the place of the usual one.
        scaling: the whole is measured with 1, 2, 4, ... workers too.
    """

    clip_seconds: float | None = None
    clips: int | None = None
    zeros: bool = False
    scaling: bool = False


AS_A_RUN = Choices()


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
        with (
            make_pool(engine, workers) as pool,
            Prefetcher(clips, pool, limits) as loaded,
            closing(engine.compute(loaded, loaded.map, scratch, lambda: False)) as events,
        ):
            for event in events:
                if isinstance(event, ComputedClip):  # a long one is computed now
                    for channel in event.channels:
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
            checksum = None if held.loaded[clip.id].long else 0  # workers compute those of clips that are held
            for e in range(info.channels_out):
                entry = IndexEntry(f"{clip.id}#{e}", clip.path, duration=info.duration)
                shard.append(entry, chunks_of(block, rows), checksum)
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
    choices: Choices = AS_A_RUN,
) -> list[Row]:
    """A row a stage, for one configuration. `laps`: runs of each, after one that does not count."""
    check_channels(config, Inputs(list(clips)))
    make = make_zeros_engine if choices.zeros else make_engine
    extractor, finish, _ = prepare(config, None, None)
    extractor = extractor.eval().to(device)
    dtype = np.dtype(config.output.dtype)
    batch = options.batch_samples(config.audio.sample_rate)
    loader = make_loader(config, extractor, limits)
    held = hold(loader, clips, resample=device.type == "cpu")
    computing = make(extractor, finish, MemoryLoader(loader, held), device, dtype, batch, limits)
    hand_over = device.type != "cpu"
    decoding, resampling = (ReadingEngine(loader, finish.shape, resample, hand_over) for resample in (False, True))
    block = np.zeros((ROWS_AT_ONCE, *finish.shape), dtype)

    def emptied(call: Callable[[Path], object]) -> Callable[[], None]:
        def run() -> None:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            try:
                call(folder)
            finally:
                shutil.rmtree(folder)

        return run

    inputs = Inputs(held.clips)

    def whole(workers: int) -> Callable[[], None]:
        quiet = replace(options, quiet=True, workers=workers)
        return emptied(lambda folder: extract_on_device(config, inputs, folder, limits, quiet, Hooks(), make))

    fewer = fewer_workers(options.workers) if choices.scaling else {}
    calls = {
        DECODE: emptied(lambda folder: consume(decoding, held.clips, options.workers, folder, limits)),
        RESAMPLE: emptied(lambda folder: consume(resampling, held.clips, options.workers, folder, limits)),
        COMPUTE: emptied(lambda folder: consume(computing, held.clips, options.workers, folder, limits)),
        WRITE: emptied(lambda folder: write(config, extractor, finish, held, block, folder)),
        **{stage: whole(workers) for stage, workers in fewer.items()},
        WHOLE: whole(options.workers),
    }
    if not any(clip.span or clip.row or clip.is_segment for clip in held.clips):
        calls[PLAIN] = emptied(lambda folder: plain_loop(held.clips, config.audio.sample_rate, folder))
    runs = time_interleaved(calls, device, seconds=0.0, least=laps, patience=float("inf"))
    rows = rows_of(name, runs, held, on_cpu=device.type == "cpu")
    facts = clip_facts(held)
    for row in rows:
        row |= facts
        row["engine"] = "none" if choices.zeros else "usual"
        row["workers"] = fewer.get(row["stage"], None if row["stage"] in (WRITE, PLAIN) else options.workers)
    return rows


def clip_facts(held: Held) -> Row:
    """What the clips are: the shortest and the longest, in seconds, and the extensions of their files."""
    durations = [loaded.info.duration for loaded in held.loaded.values()]
    kinds = sorted({Path(clip.path).suffix.lower().lstrip(".") for clip in held.clips})
    return {"shortest": min(durations), "longest": max(durations), "kinds": kinds}


def fewer_workers(most: int) -> dict[str, int]:
    """The powers of two below a number of workers, by the name of the whole run with so many."""
    return {f"{WHOLE}, {count(1 << n, 'worker')}": 1 << n for n in range((most - 1).bit_length())}


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
    one = next(iter(fewer_workers(2)))
    for stage, r in runs.items():
        whole = stage.startswith(WHOLE)
        row: dict[str, Any] = {
            "config": name,
            "stage": stage,
            "seconds": seconds[stage],
            "real_time": audio / seconds[stage],
            "clips_a_second": len(held.clips) / seconds[stage],
            "to_decode": seconds[DECODE] / seconds[stage] if stage == WHOLE or not whole else None,
            "to_plain": seconds[PLAIN] / seconds[stage] if PLAIN in seconds else None,
            "to_bound": bound(seconds, on_cpu) / seconds[stage] if stage == WHOLE else None,
            "to_one_worker": seconds[one] / seconds[stage] if whole and one in seconds else None,
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
    done: Done,
    write_verdict: Callable[[str], None],
    choices: Choices = AS_A_RUN,
) -> list[Row]:
    """All stages for each configuration; `done` is called with the rows of each."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        clips = chosen_clips(inputs.clips, next(iter(configs.values())), choices, Path(folder))
        for name, config in configs.items():
            new = measure(name, config, clips, options, device, scratch, laps, choices=choices)
            done(new)
            write_verdict(verdict(new, device.type == "cpu"))
            rows += new
    return rows


def chosen_clips(clips: Sequence[Clip], config: Config, choices: Choices, folder: Path) -> Sequence[Clip]:
    """The clips that are measured; those that are made lie in the folder."""
    if choices.clip_seconds is None:
        return clips[: choices.clips]
    loader = ClipLoader(Resampler(config.audio.sample_rate), config.audio.channels, DEFAULT_LIMITS)
    return cut(loader, clips, choices.clip_seconds, choices.clips or CUT_CLIPS, HELD_BYTES, folder)
