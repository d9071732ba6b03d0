"""The statistics of clips: a run that keeps no features."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from hlfeat.config.config import Config
from hlfeat.errors import OutputError
from hlfeat.extraction.extract import check_channels
from hlfeat.extraction.multi_device import run_on_devices
from hlfeat.extraction.one_device import statistics_on_device
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Hooks
from hlfeat.extraction.setup import prepare
from hlfeat.inputs.collect import Inputs
from hlfeat.statistics.dataset_statistics import Statistics
from hlfeat.statistics.moments import no_moments


def statistics_of_clips(
    config: Config,
    inputs: Inputs,
    out: Path,
    options: Options,
    limits: Limits = DEFAULT_LIMITS,
    hooks: Hooks = Hooks(),  # noqa: B008
) -> tuple[Statistics | None, Report]:
    """The statistics of all clips' features, frame by frame (None where there are none), and the report of the run.

    Args:
        config: what to compute; frames are not pooled.
        out: a file; what does not fit into memory goes into the folder that it is in.

    Raises what `extract` raises.
    """
    config, scratch = config.without_pool(), out.parent
    inputs.check_found()
    check_channels(config, inputs)
    try:
        tempfile.TemporaryFile(dir=scratch).close()
    except OSError as e:
        raise OutputError(f"{scratch}: cannot be written: {e.strerror}") from e
    description = prepare(config, options.weights, options.stats).description
    task = partial(statistics_on_device, config, inputs, scratch, limits)
    if len(options.devices) == 1:
        report, shards = task(options, hooks)
    else:
        results = run_on_devices(len(inputs.clips), task, options, hooks)
        report = Report.of_parts([report for report, _ in results])
        shards = [shard for _, part in results for shard in part]
    clips, total = 0, no_moments(*description.features.row)
    for shard in shards:
        clips += shard.clips
        total += shard.moments
    if not total.frames:
        return None, report
    fingerprint = config.frames_fingerprint(None if description.weights is None else description.weights.sha256)
    return Statistics(fingerprint, clips, total.frames, total.mean, total.variance, total.min, total.max), report
