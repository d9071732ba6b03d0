"""`hlfeat.extract`: features of clips into a directory, on one device or several, in one part or several.

On a CPU the output depends on the clips and the configuration alone, never on timing; on a GPU it does up to rounding.
Workers read clips ahead (and compute them on a CPU); results are written in input order, whichever worker finishes
first. A shard is closed when the next clip would not fit. A run that was killed resumes from its last finished shard
and writes the same bytes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hlfeat.config.config import Config
from hlfeat.errors import HlfeatError, UsageError
from hlfeat.extraction.contributors import version_notes
from hlfeat.extraction.in_parts import extract_in_parts
from hlfeat.extraction.one_part import Work, extract_part
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.product import FEATURES, Product
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Hooks
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.partition import WHOLE
from hlfeat.remote.retries import Retries
from hlfeat.storage.known_clips import known_ids_in
from hlfeat.storage.named_place import place_of
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.output_place import OutputPlace

log = logging.getLogger("hlfeat")


def extract(
    config: Config,
    inputs: Inputs | Sequence[str | Path],
    out: str | Path,
    options: Options | None = None,
    *,
    stopped: Callable[[], bool] = lambda: False,
    finished_shard: Callable[[Path | str], None] = lambda path: None,
    progress: Callable[[int, int, bool], Progress] = Progress,
) -> Report:
    """Write the features of all clips to `out`; resumes an earlier run of the same configuration.

    It is `hlfeat extract` as a function. With several devices in `options.device` ("cuda:0,cuda:1"), each gets a
    process and a part of the clips.

    Args:
        config: what to compute.
        inputs: the clips, in order; or files, folders, lists and manifests, as on the command line.
        out: the output directory, or `s3://bucket/prefix` as text; docs/format.md says what is in it.
        options: how to run.
        stopped: called often; when it returns True, the run ends with InterruptedRunError and can be resumed.
        finished_shard: called with the path of each shard that is complete, or with its URL.
        progress: makes the object that counts finished clips: (clips, of these done before, quiet).

    Returns:
        What the run did. Clips that could not be used are in `report.failures` and in failures.jsonl.

    Raises:
        UsageError: the output holds other features, or is a URL that cannot be written to; an impossible option; no
            clip, or two of one id.
        OutputError: the output cannot be written.
        TooManyFailuresError: more clips failed than `options` allow.
        UnreachableError: the servers of twenty clips in a row do not answer; what is finished is kept.
        InterruptedRunError: `stopped` returned True.

    >>> import tempfile
    >>> import hlfeat, soundfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(f"{folder}/a.wav", [0.0, 0.5] * 8000, 16000)
    ...     options = hlfeat.Options(device="cpu", quiet=True)
    ...     report = hlfeat.extract(hlfeat.load_config("log-mel"), [f"{folder}/a.wav"], f"{folder}/out", options)
    ...     hlfeat.FeatureStore(f"{folder}/out")["a.wav"].shape  # frames, channels, bands
    (100, 1, 80)
    >>> report.clips, len(report.failures)
    (1, 0)
    """
    if not isinstance(inputs, Inputs):
        inputs = collect_inputs([os.fspath(path) for path in inputs])
    return extract_clips(config, inputs, out, options or Options(), Hooks(stopped, finished_shard, progress))


def extract_clips(
    config: Config,
    inputs: Inputs,
    out: str | Path | OutputPlace,
    options: Options,
    hooks: Hooks = Hooks(),  # noqa: B008
    limits: Limits = DEFAULT_LIMITS,
    product: Product = FEATURES,
) -> Report:
    """As `extract`, with limits of memory.

    Args:
        product: what is made of the clips.
    """
    retries = Retries(options.retries, stopped=hooks.stopped)
    place = place_of(out, retries)
    product.check_place(place)
    inputs.check_found(known_ids_in(place) if inputs.unfound and not options.overwrite else ())
    check_channels(config, inputs)
    work = Work(config, inputs, place, limits, product)
    try:
        with place.naming():
            report = _run_of(options)(work, options, hooks)
    except HlfeatError as e:
        shared = len(options.devices) > 1 or options.does_parts
        if shared and options.part == WHOLE and e.report is not None:
            with suppress(HlfeatError, OSError), OutputDir(place, retries=retries) as output:
                output.interrupt(e.report)  # unless another run has begun
        raise
    notes = product.notes(config, report.sample_rates, options)
    for note in notes:
        log.warning("%s", note)
    return replace(report, notes=[*version_notes(report.versions), *notes])


def _run_of(options: Options) -> Callable[[Work, Options, Hooks], Report]:
    """What does the parts."""
    if options.on == "ray":
        from hlfeat.extraction.on_workers import extract_on_workers  # few runs need it

        return extract_on_workers
    return extract_in_parts if options.does_parts else extract_part


def check_channels(config: Config, inputs: Inputs) -> None:
    """Raises UsageError where the configuration keeps every channel, but the inputs name single ones."""
    if config.audio.channels == "each" and any(clip.channel is not None for clip in inputs.clips):
        raise UsageError("audio.channels: each goes with whole files, but a manifest names channels")
