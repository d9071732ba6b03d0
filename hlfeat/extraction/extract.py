"""The run: clips are read (and on a CPU computed) ahead by threads, and written in input order.

What ends up in the output depends on the clips and the configuration alone, never on timing. Results come in input
order whatever thread finishes first, and a shard is closed when the next clip would not fit. A run that was killed goes
on from its last finished shard and writes the same bytes.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hlfeat.config.config import Config
from hlfeat.errors import UsageError
from hlfeat.extraction.options import Options
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Run
from hlfeat.extraction.setup import describe_inputs, prepare
from hlfeat.files import disk_error
from hlfeat.inputs.clip_list import Inputs
from hlfeat.inputs.collect import collect
from hlfeat.nn.device import choose_device
from hlfeat.partition import WHOLE
from hlfeat.storage.output_dir import OutputDir

log = logging.getLogger("hlfeat")


def extract(
    config: Config,
    inputs: Inputs | Sequence[str | Path],
    out: str | Path,
    options: Options | None = None,
    *,
    stopped: Callable[[], bool] = lambda: False,
    finished_shard: Callable[[Path], None] = lambda path: None,
    progress: Callable[[int, int, bool], Progress] = Progress,
) -> Report:
    """Features of all clips into `out`; goes on where an earlier run of the same configuration stopped.

    Args:
        config: what to compute.
        inputs: the clips, in order; or files, folders, lists and manifests, as on the command line.
        out: the output directory (layout: README, "The output directory").
        options: how to run.
        stopped: asked often; when true, the run ends with InterruptedRunError and can be resumed.
        finished_shard: told the path of each shard once it is complete.
        progress: makes what is told of every clip: (clips, of these done before, quiet).

    Raises:
        UsageError: the output holds other features; an option that cannot be; no clip, or two of one id.
        OutputError: the output cannot be written.
        TooManyFailuresError: more clips failed than `options` allow.
        InterruptedRunError: `stopped` said so.
    """
    options, out = options or Options(), Path(out)
    if not isinstance(inputs, Inputs):
        inputs = collect([os.fspath(path) for path in inputs], sys.stdin.buffer)
    if not (math.isfinite(options.batch_seconds) and options.batch_seconds > 0):
        raise UsageError(f"batch_seconds: expected more than 0, got {options.batch_seconds}")
    if options.on_error not in ("skip", "stop"):
        raise UsageError(f"on_error: expected skip or stop, got {options.on_error}")
    if config.audio.channels == "each" and any(clip.channel is not None for clip in inputs.clips):
        raise UsageError("audio.channels: each goes with whole files, but a manifest names channels")
    device = choose_device(options.device)
    extractor, finish, description = prepare(config, options.weights, options.stats)
    extractor = extractor.eval().to(device)
    if options.weights is None and any(True for _ in extractor.stack.parameters()):
        log.warning("no weights given: the stack's are drawn at random from seed %d", config.seed)
    if extractor.stack.reach is None:
        log.info("the stack's instance norm looks at whole clips: long ones are held in memory")
    with OutputDir(out, options.part) as output:
        try:
            if options.part != WHOLE:
                description["inputs"] = describe_inputs(inputs.clips)
            output.adopt(description, options.overwrite)
            clips = inputs.clips[options.part.slice(len(inputs.clips))]
            run = Run(clips, config, options, extractor, finish, device, output, stopped, finished_shard, progress)
            return run.go()
        except OSError as e:
            raise disk_error(e, out) from e
