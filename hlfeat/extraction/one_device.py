"""A run on one device: modules, output directory or statistics, and the loop over clips between them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hlfeat.audio.clip import Clip
from hlfeat.audio.resample import Resampler
from hlfeat.config.config import Config
from hlfeat.errors import HlfeatError, InterruptedRunError, UsageError
from hlfeat.extraction.clip_loader import ClipLoader
from hlfeat.extraction.clock import Clock
from hlfeat.extraction.contributors import distinct, earlier_versions, version_notes
from hlfeat.extraction.failures import Failures
from hlfeat.extraction.options import Limits, Options
from hlfeat.extraction.process_pool import make_pool
from hlfeat.extraction.product import FEATURES, Product
from hlfeat.extraction.report import STAGES, Report, merge_reports
from hlfeat.extraction.resume import ResumeState, scan_output
from hlfeat.extraction.run import ClipRun, Hooks, Job
from hlfeat.extraction.run_log import ONCE
from hlfeat.extraction.setup import EngineMaker, describe_inputs, make_engine
from hlfeat.extraction.sinks import ShardMoments, SinkPlace, StatisticsSink
from hlfeat.files import disk_error
from hlfeat.inputs.collect import Inputs
from hlfeat.nn.device import choose_device, device_name, on_device, peak_memory
from hlfeat.nn.weights import UNTRAINED
from hlfeat.partition import WHOLE
from hlfeat.precision import float32_precision
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.records import FailureRecord
from hlfeat.versions import versions

log = logging.getLogger("hlfeat")


def extract_on_device(
    config: Config,
    inputs: Inputs,
    out: Path,
    limits: Limits,
    options: Options,
    hooks: Hooks,
    engine_maker: EngineMaker | None = None,
    product: Product = FEATURES,
) -> Report:
    """The product of the clips of `options.part` into `out`, computed on `options.device`. The errors are `extract`'s.

    Args:
        engine_maker: makes an engine in place of `make_engine`, for benchmarks.
        product: what is made of the clips.
    """
    with (
        _prepare_job(config, options, hooks, limits, product, engine_maker) as job,
        OutputDir(out, options.part) as output,
    ):
        try:
            description = job.pipeline.description
            if options.part != WHOLE:
                description = replace(description, inputs=describe_inputs(inputs.clips))
            output.initialise_or_resume(description, options.overwrite)
            return _extract(job, inputs, output)
        except OSError as e:
            raise disk_error(e, out) from e


def statistics_on_device(
    config: Config, inputs: Inputs, scratch: Path, limits: Limits, options: Options, hooks: Hooks
) -> tuple[Report, list[ShardMoments]]:
    """The moments of the features of the clips of `options.part`, shard by shard, and no features.

    Args:
        scratch: a folder for what does not fit into memory.
    """
    clips = inputs.clips[options.part.slice(len(inputs.clips))]
    order = _order_of(clips)
    with _prepare_job(config, options, hooks, limits, FEATURES) as job:
        clock, started = Clock(), time.perf_counter()
        sink = StatisticsSink(job.pipeline.postprocessor.shape, clock)
        failures = Failures((), {}, options)
        run = ClipRun(job, sink, failures, hooks.progress(len(clips), 0, options.quiet), clock)
        try:
            run.process(clips, frozenset(), scratch)
        except OSError as e:
            raise disk_error(e, scratch) from e
        finally:
            run.progress.close()
        return _report(run, ResumeState(clips), failures.save_in_order(order), started), sink.shards


@contextmanager
def _prepare_job(
    config: Config,
    options: Options,
    hooks: Hooks,
    limits: Limits,
    product: Product,
    engine_maker: EngineMaker | None = None,
) -> Iterator[Job]:
    """Modules, engine and workers. These are made first: before the output is locked and the device is used.

    Until the job is done, all threads of this process and its workers multiply in the precision of the options.
    """
    device = choose_device(options.device)
    pipeline = product.prepare(config, options.weights, options.stats)
    extractor, postprocessor, _ = pipeline
    stack = extractor.eval().stack
    keep_truncated = options.on_truncated == "keep"
    loader = ClipLoader(Resampler(extractor.sample_rate), config.audio.channels, limits, keep_truncated)
    batch_samples, dtype = options.batch_samples(config.audio.sample_rate), np.dtype(config.output.dtype)
    engine = (engine_maker or make_engine)(extractor, postprocessor, loader, device, dtype, batch_samples, limits)
    with (
        float32_precision(options.tf32),
        closing(loader),
        make_pool(engine, options.workers) as pool,
        on_device(device),
    ):
        extractor.to(device)
        if options.weights is None and stack.is_random():
            log.warning(UNTRAINED, config.seed, extra=ONCE)
        if stack.receptive_field is None:
            log.info("the stack's instance norm looks at whole clips: long ones are held in memory")
        yield Job(config, product, options, pipeline, engine, pool, device, hooks, limits)


def _order_of(clips: Sequence[Clip]) -> dict[str, int]:
    """The place of each clip by its id. Raises UsageError for two clips of one id."""
    order = {clip.id: i for i, clip in enumerate(clips)}
    if len(order) < len(clips):
        raise UsageError("expected clips of different ids")
    return order


def _extract(job: Job, inputs: Inputs, output: OutputDir) -> Report:
    """The run in a directory that is locked and of the right fingerprint."""
    started, clock, options = time.perf_counter(), Clock(), job.options
    clips = inputs.clips[options.part.slice(len(inputs.clips))]
    order = _order_of(clips)
    state = scan_output(
        output,
        clips,
        order,
        each=job.each,
        update=options.update,
        retry_failed=options.retry_failed,
        manifests=inputs.manifests,
    )
    if state.entries:
        log.info("%d of %d clips are done already", len(clips) - len(state.todo), len(clips))
    failures = Failures(state.standing, state.retried or {}, options, output.catalog.write_failures)

    sink = job.product.sink(job.config, job.pipeline, SinkPlace(output, job.each, state.shards, clock, failures))
    progress = job.hooks.progress(len(clips), len(clips) - len(state.todo), options.quiet)
    run = ClipRun(job, sink, failures, progress, clock)
    earlier = earlier_versions(output, state.entries)

    def notes(sample_rates: Mapping[int, int]) -> list[str]:
        return job.product.notes(job.config, sample_rates, options)

    def merge(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        merged = merge_reports(reports)
        rates = {int(rate): clips for rate, clips in merged["sample_rates"].items()}
        return {**merged, "notes": [*merged["notes"], *notes(rates)]}

    def report(failed: Sequence[FailureRecord], interrupted: str | None = None) -> Report:
        finished = _report(run, state, failed, started)
        made_now = [versions()] if run.committed.clips or not earlier else []
        used = distinct([*earlier, *made_now])
        return replace(
            finished,
            skipped=dict(inputs.skipped),
            hidden_folders=inputs.hidden_folders,
            interrupted=interrupted,
            versions=used,
            notes=[*version_notes(used), *notes(finished.sample_rates)],
        )

    ended: BaseException | None = None
    try:
        if state.todo:
            output.begin()
            for note in version_notes(distinct([*earlier, versions()])):
                log.warning("%s", note, extra=ONCE)
        run.process(state.todo, state.fills_gap, output.folder)
        assert progress.clips == len(clips), "a clip is neither in the index nor among the failures"
    except BaseException as e:
        ended = e
        raise
    finally:
        progress.close()
        output.check_place()
        failed = failures.save_in_order(order)
        if ended is not None:
            with suppress(Exception):  # as what has ended the run, which is raised: a full disk, a lost GPU
                output.interrupt(report(failed, _reason(ended, output.folder)).as_dict())
    done = report(failed)
    return replace(done, complete=output.finish(done.as_dict(), merge))


def _reason(error: BaseException, folder: Path) -> str:
    """Why a run ended early, on one line."""
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return "asked to stop"
    if isinstance(error, OSError):
        error = disk_error(error, folder)
    return " ".join(str(error).split()) if isinstance(error, HlfeatError) else f"{type(error).__name__}: {error}"


def _report(run: ClipRun, state: ResumeState, failed: Sequence[FailureRecord], started: float) -> Report:
    """What the run has finished."""
    seconds, tally = {stage: run.clock.seconds[stage] for stage in STAGES}, run.committed
    return Report(
        clips=tally.clips,
        audio_seconds=tally.seconds,
        truncated=tally.truncated,
        cut_segments=tally.cut_segments,
        sample_rates=Counter(state.sample_rates) + tally.sample_rates,
        failures=[failure.as_dict() for failure in failed],
        clips_before=state.entries,
        seconds_before=state.seconds,
        seconds={**seconds, "total": time.perf_counter() - started},
        device=device_name(run.job.device),
        tf32=run.job.options.tf32,
        peak_bytes=peak_memory(run.job.device) + (run.job.pool.peak_bytes if run.job.device.type == "cpu" else 0),
    )
