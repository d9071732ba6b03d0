"""The run: clips are decoded ahead by threads, computed in batches of similar length, written in input order.

What ends up in the output depends on the clips and the configuration alone, never on timing. Clips arrive in input
order whatever thread finishes first; a block of consecutive clips is filled up to a fixed amount of audio, cut into
batches by the lengths in it, and written in input order; a shard is closed when the next clip would not fit, and no
batch reaches across a shard's end. A run that was killed goes on from its last finished shard and writes the same
bytes.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfeat.batching import pad, plan_batches
from hlfeat.clip import Clip, printable
from hlfeat.config import Config, shard_bytes
from hlfeat.errors import ClipError, ConfigError, TooManyFailuresError, UsageError
from hlfeat.extractor import Extractor, build
from hlfeat.loader import Loader, Prepared, out_of_memory
from hlfeat.outdir import OutputDir, disk_error
from hlfeat.progress import Progress
from hlfeat.report import Report, device_name, peak_memory, versions
from hlfeat.shards import Record, ShardWriter, shard_name, shard_number
from hlfeat.sources import Inputs
from hlfeat.weights import load_weights

log = logging.getLogger("hlfeat")

BLOCK_BATCHES = 8  # a block of clips is sorted by length and cut into about this many batches


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what to compute: none of these changes a clip's features beyond rounding."""

    device: str = "auto"
    batch_seconds: float = 64.0
    workers: int = 2
    on_error: str = "skip"
    max_failures: int | None = None
    overwrite: bool = False
    quiet: bool = False
    weights: Path | None = None


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
) -> Report:
    """Features of all clips into `out`; goes on where an earlier run of the same configuration stopped.

    Args:
        config: what to compute.
        inputs: the clips, in order.
        out: the output directory (layout: README, "The output directory").
        options: how to run.
        stopped: asked often; when true, the run ends with InterruptedRunError and can be resumed.
        finished_shard: told the path of each shard once it is complete.

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
    extractor = build(config)
    digest = load_weights(extractor, options.weights) if options.weights else None
    try:
        extractor.follow_centre_freqs()
    except ValueError as e:
        raise ConfigError(f"{options.weights}: {e}") from e
    extractor = extractor.eval().to(device)
    if digest is None and any(True for _ in extractor.stack.parameters()):
        log.warning("no --weights: the stack's weights are drawn at random from seed %d", config.seed)
    with OutputDir(out) as output:
        run = _Run(config, options, extractor, device, output, stopped, finished_shard)
        try:
            continued = output.adopt(describe(config, extractor, options.weights, digest), options.overwrite)
            return run.go(inputs.clips, continued)
        except OSError as e:
            raise disk_error(e, out) from e


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


def segment(clip: Clip) -> dict[str, float | int]:
    """What a clip is of its file, as its index line says it; nothing for the whole file."""
    keys = {"start": clip.start, "end": clip.end, "channel": clip.channel}
    return {k: v for k, v in keys.items() if v is not None}


def describe(config: Config, extractor: Extractor, weights: Path | None, digest: str | None) -> dict[str, Any]:
    """The contents of hlfeat.yaml."""
    return {
        "fingerprint": config.fingerprint(digest),
        "features": {
            "channels": extractor.n_channels,
            "bands": extractor.n_bands,
            "frames_per_second": extractor.sample_rate / extractor.hop,
            "hop_samples": extractor.hop,
        },
        "weights": None if weights is None else {"path": str(weights), "sha256": digest},
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }


class _Run:
    """The loop and its state: a block of clips, an open shard, the failures so far."""

    def __init__(
        self,
        config: Config,
        options: Options,
        extractor: Extractor,
        device: torch.device,
        output: OutputDir,
        stopped: Callable[[], bool],
        finished_shard: Callable[[Path], None],
    ) -> None:
        self.config, self.options, self.extractor, self.device = config, options, extractor, device
        self.output, self.stopped, self.finished_shard = output, stopped, finished_shard
        self.each = config.audio.channels == "each"  # every channel of a file is an entry of its own
        self.dtype = np.dtype(config.output.dtype)
        size = config.output.shard_size
        self.shard_clips = size if isinstance(size, int) else None
        self.shard_bytes = shard_bytes(size) if isinstance(size, str) else None
        self.frame_bytes = extractor.n_channels * extractor.n_bands * self.dtype.itemsize
        self.batch_samples = max(1, int(options.batch_seconds * config.audio.sample_rate))
        self.loader = Loader(config.audio.sample_rate, config.audio.channels, options.workers)
        self.report = Report(device=device_name(device))
        self.block: list[Prepared] = []
        self.block_samples = 0
        self.shard: ShardWriter | None = None
        self.planned_clips = self.planned_bytes = 0  # of the open shard, the block included
        self.order: dict[str, int] = {}

    def go(self, clips: Sequence[Clip], continued: bool) -> Report:
        started = time.perf_counter()
        self.order = {clip.id: i for i, clip in enumerate(clips)}
        self.number, done = self.output.committed()
        by_input = {id_.rpartition("#")[0] if self.each else id_: record for id_, record in done.items()}
        done_ids = set(by_input)
        self._check_changes(clips, by_input)
        self._keep_failures(done_ids)
        failed = {f["id"] for f in self.report.failures}
        todo = [clip for clip in clips if clip.id not in done_ids and clip.id not in failed]
        self.report.clips_before = len(done)
        if continued:
            log.info("%d of %d clips are done already", len(clips) - len(todo), len(clips))
        self.progress = Progress(len(clips), len(clips) - len(todo), self.options.quiet)
        try:
            with ExitStack() as self.open_shard:
                for item in self.loader.stream(todo, self.stopped):
                    self._check_stopped()
                    if isinstance(item, Prepared):
                        self._add(item)
                    else:
                        self._fail(*item)
                self._finish_shard()
                assert self.progress.clips == len(clips), "a clip is neither in the index nor among the failures"
        finally:
            self.progress.close()
            self.report.failures.sort(key=lambda f: self.order.get(f["id"], len(self.order)))
            self.output.check_place()
            self.output.write_failures(self.report.failures)
        self.report.spend("total", time.perf_counter() - started)
        self.report.peak_bytes = peak_memory(self.device)
        self.output.write_report(self.report.as_dict())
        return self.report

    def _keep_failures(self, done: set[str]) -> None:
        """Failures of earlier runs that stand: those beside finished shards, or all, if no clip is left to do.

        What failed after the last finished shard is tried again with the clips around it.
        """
        earlier = [f for f in self.output.failures() if f["id"] not in done]
        complete = self.order.keys() <= done | {f["id"] for f in earlier}
        # failures of clips that are no input of this run are not this run's to forget
        self.report.failures = [
            f for f in earlier if complete or f["id"] not in self.order or shard_number(f["shard"]) < self.number
        ]

    def _check_changes(self, clips: Sequence[Clip], done: Mapping[str, Record]) -> None:
        """Say which finished clips' files have changed since; refuse another file under the name of a finished clip."""
        changed = 0
        for clip in clips:
            record = done.get(clip.id)
            if record is None:
                continue
            try:
                info = os.stat(clip.path)
            except OSError:
                continue  # gone: its features are still those of the clip
            part = {k: v for k, v in record.items() if k in ("start", "end") or (k == "channel" and not self.each)}
            if segment(clip) != part:
                whole = "the whole file"
                raise UsageError(
                    f"{self.output.folder}: has the id {printable(clip.id)} from {part or whole}, not from "
                    f"{segment(clip) or whole}; choose another folder"
                )
            if (info.st_size, info.st_mtime_ns) != (record.get("size"), record.get("modified")):
                if clip.path != record["path"]:
                    raise UsageError(
                        f"{self.output.folder}: has the id {printable(clip.id)} from {printable(record['path'])}, "
                        f"not from {printable(clip.path)}; choose another folder"
                    )
                changed += 1
        if changed:
            log.warning("%d finished clips have changed since; --overwrite computes all anew", changed)

    # --- blocks and shards -----------------------------------------------------------------------------------

    def _add(self, item: Prepared) -> None:
        """Put a clip into the block, after closing what it does not fit into."""
        for stage, seconds in item.seconds.items():
            self.report.spend(stage, seconds)
        frames = int(self.extractor.num_frames(torch.tensor(len(item.waveforms[0]))))
        clips, size = len(item.waveforms), len(item.waveforms) * frames * self.frame_bytes
        full = (self.shard_clips is not None and self.planned_clips + clips > self.shard_clips) or (
            self.shard_bytes is not None and self.planned_bytes + size > self.shard_bytes
        )
        if full and self.planned_clips:
            self._finish_shard()
        self.block.append(item)
        self.planned_clips += clips
        self.planned_bytes += size
        self.block_samples += sum(len(w) for w in item.waveforms)
        if self.block_samples >= BLOCK_BATCHES * self.batch_samples:
            self._finish_block()

    def _finish_block(self) -> None:
        """Compute the block's clips and append them to the open shard in input order."""
        block, self.block, self.block_samples = self.block, [], 0
        waveforms = [(i, c, w) for i, item in enumerate(block) for c, w in enumerate(item.waveforms)]
        results: dict[tuple[int, int], np.ndarray | ClipError] = {}
        start = time.perf_counter()
        for batch in plan_batches([len(w) for _, _, w in waveforms], self.batch_samples):
            self._check_stopped()
            outcome = self._compute([waveforms[j][2] for j in batch])
            results.update(((waveforms[j][0], waveforms[j][1]), y) for j, y in zip(batch, outcome, strict=True))
        computed = time.perf_counter()
        for i, item in enumerate(block):
            features = [results[i, c] for c in range(len(item.waveforms))]
            failed = next((y for y in features if isinstance(y, ClipError)), None)
            if failed is not None:
                self._fail(item.clip, failed)
            else:
                self._write(item, [y for y in features if isinstance(y, np.ndarray)])
        self.report.spend("compute", computed - start)
        self.report.spend("write", time.perf_counter() - computed)

    def _write(self, item: Prepared, features: Sequence[np.ndarray]) -> None:
        if self.shard is None:
            shape = self.extractor.n_channels, self.extractor.n_bands
            writer = ShardWriter(self.output.folder, self.number, self.config.output.format, self.dtype, *shape)
            self.shard = self.open_shard.enter_context(writer)
        for c, y in enumerate(features):
            record = {
                "id": f"{item.clip.id}#{c}" if self.each else item.clip.id,
                "path": item.clip.path,
                "duration": item.duration,
                "sample_rate": item.sample_rate,
                "channels": item.file_channels,
                "size": item.size,
                "modified": item.modified,
                **segment(item.clip),
            }
            self.shard.append({**record, "channel": c} if self.each else record, y)
        self.report.clips += len(features)
        self.report.audio_seconds += item.duration * len(features)
        self.progress.add(1, item.duration * len(features))

    def _finish_shard(self) -> None:
        """Compute what is left, record the failures so far, then publish: the index is the last thing to appear."""
        if self.block:
            self._finish_block()
        self.planned_clips = self.planned_bytes = 0
        if self.shard is None:
            return
        start = time.perf_counter()
        self.output.check_place()
        self.output.write_failures(self.report.failures)
        path = self.shard.commit()
        self.open_shard.close()
        self.shard = None
        self.number += 1
        self.report.spend("write", time.perf_counter() - start)
        self.finished_shard(path)

    # --- computing -------------------------------------------------------------------------------------------

    def _compute(self, waveforms: Sequence[Tensor]) -> list[np.ndarray | ClipError]:
        """Features [frames, channels, bands] of each clip of a batch; where memory does not suffice, in halves."""
        try:
            return self._forward(waveforms)
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(waveforms) == 1:
            return [ClipError("out-of-memory", f"too long for the memory of {self.report.device}")]
        log.info("out of memory with a batch of %d clips: going on with halves", len(waveforms))
        half = len(waveforms) // 2
        return self._compute(waveforms[:half]) + self._compute(waveforms[half:])

    def _forward(self, waveforms: Sequence[Tensor]) -> list[np.ndarray | ClipError]:
        x, lengths = pad(waveforms)
        frames = self.extractor.num_frames(lengths).tolist()
        with torch.inference_mode():
            y = self.extractor(x.to(self.device), lengths.to(self.device))  # [B, C, F, N]
            y = y.permute(0, 3, 1, 2).to(getattr(torch, self.dtype.name)).cpu()  # [B, N, C, F]
        clips = [clip[:n].contiguous().numpy() for clip, n in zip(y, frames, strict=True)]
        message = f"features that {self.dtype.name} cannot hold: samples as large as"
        return [
            c if np.isfinite(c).all() else ClipError("non-finite", f"{message} {float(w.abs().max()):.3g}")
            for c, w in zip(clips, waveforms, strict=True)
        ]

    # --- failures and stopping -------------------------------------------------------------------------------

    def _fail(self, clip: Clip, error: ClipError) -> None:
        record = {"id": clip.id, "path": clip.path, "code": error.code, "message": str(error)}
        record["shard"] = shard_name(self.number)
        self.report.failures.append(record)
        self.progress.add(1, 0.0)
        log.warning("%s: %s: %s", printable(clip.path), error.code, printable(str(error)))
        if self.options.on_error == "stop":
            raise TooManyFailuresError(f"{printable(clip.path)}: {error.code}: {error} (--on-error stop)")
        if self.options.max_failures is not None and len(self.report.failures) > self.options.max_failures:
            raise TooManyFailuresError(f"more than {self.options.max_failures} clips failed (--max-failures)")

    def _check_stopped(self) -> None:
        if self.stopped():
            raise InterruptedRunError
