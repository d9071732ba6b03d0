"""A run on one device: modules, output directory or statistics, and the loop over clips between them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from hlfeat.audio.clip import Clip
from hlfeat.config.config import Config
from hlfeat.errors import UsageError
from hlfeat.extraction.clock import Clock
from hlfeat.extraction.contributors import distinct, earlier_versions, version_notes
from hlfeat.extraction.failures import Failures
from hlfeat.extraction.fetch_ahead import Fetcher
from hlfeat.extraction.finished_shards import Request
from hlfeat.extraction.options import Limits, Options
from hlfeat.extraction.process_pool import make_pool
from hlfeat.extraction.product import FEATURES, Product
from hlfeat.extraction.report import Report
from hlfeat.extraction.resume import ResumeState, scan_output
from hlfeat.extraction.run import ClipRun, Hooks, Job
from hlfeat.extraction.run_log import ONCE
from hlfeat.extraction.run_report import DirectoryReporter, reason_of, run_report
from hlfeat.extraction.setup import EngineMaker, describe_run, make_engine, make_loader
from hlfeat.extraction.sinks import ShardMoments, SinkPlace, StatisticsSink
from hlfeat.files import disk_error
from hlfeat.inputs.collect import Inputs
from hlfeat.nn.device import choose_device, on_device
from hlfeat.nn.weights import UNTRAINED
from hlfeat.precision import float32_precision
from hlfeat.remote.fetch import ObjectFetcher
from hlfeat.remote.retries import Retries
from hlfeat.remote.tables import table_fetcher
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.output_place import OutputPlace
from hlfeat.versions import versions

log = logging.getLogger("hlfeat")
_GRACE = 5.0  # seconds in which a run that is to stop makes requests to its bucket again


def extract_on_device(
    config: Config,
    inputs: Inputs,
    out: Path | OutputPlace,
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
        OutputDir(out, options.part, Retries(options.retries, stopped=hooks.stopped, grace=_GRACE)) as output,
    ):
        try:
            with output.place.naming():
                description = describe_run(job.pipeline, inputs.clips, options.part)
                output.initialise_or_resume(description, options.overwrite)
                return _extract(job, inputs, output)
        except OSError as e:
            error = disk_error(e, output.folder)
            error.report = getattr(e, "report", None)
            raise error from e


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
        return run_report(run, ResumeState(clips), failures.save_in_order(order), started), sink.shards


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
    loader = make_loader(config, extractor, limits, options.on_truncated == "keep")
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
        retries = Retries(options.retries, stopped=hooks.stopped)
        fetchers: list[Fetcher] = [table_fetcher(retries), ObjectFetcher(retries)]
        yield Job(config, product, options, pipeline, engine, pool, device, hooks, limits, fetchers)


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
    state = scan_output(output, Request(clips, order, job.each, options.update, options.retry_failed, inputs.manifests))
    if len(state.todo) < len(clips):
        failed_before = sum(failure.id in order for failure in state.standing)
        of_them = f"; {failed_before} of them failed" if failed_before else ""
        log.info("%d of %d clips are done already%s", len(clips) - len(state.todo), len(clips), of_them)
    failures = Failures(state.standing, state.retried or {}, options, output.catalog.write_failures)

    sink = job.product.sink(job.config, job.pipeline, SinkPlace(output, job.each, state.shards, clock, failures))
    earlier = earlier_versions(output, state.entries)
    progress = job.hooks.progress(len(clips), len(clips) - len(state.todo), options.quiet)
    run = ClipRun(job, sink, failures, progress, clock)
    reporter = DirectoryReporter(run, state, earlier, inputs, started)
    ended: BaseException | None = None
    try:
        if state.todo:
            output.begin(reporter.begun([*state.standing, *(state.retried or {}).values()]).as_dict())
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
                interrupted = reporter.report(failed, reason_of(ended, output.folder)).as_dict()
                ended.report = interrupted  # type: ignore[attr-defined]
                output.interrupt(interrupted)
    report = reporter.report(failed)
    return replace(report, complete=output.finish(report.as_dict(), reporter.merge))
