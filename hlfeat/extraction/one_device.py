"""The run on one device: modules, output directory, and the loop over clips."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hlfeat.config.config import Config
from hlfeat.extraction.options import Options
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Run
from hlfeat.extraction.setup import describe_inputs, prepare
from hlfeat.files import disk_error
from hlfeat.inputs.clip_list import Inputs
from hlfeat.nn.device import choose_device
from hlfeat.partition import WHOLE
from hlfeat.storage.output_dir import OutputDir

log = logging.getLogger("hlfeat")


def extract_on_device(
    config: Config,
    inputs: Inputs,
    out: Path,
    options: Options,
    *,
    stopped: Callable[[], bool] = lambda: False,
    finished_shard: Callable[[Path], None] = lambda path: None,
    progress: Callable[[int, int, bool], Progress] = Progress,
) -> Report:
    """Features of the clips of `options.part` into `out`, computed on `options.device`.

    Args:
        progress: makes the object that counts finished clips: (clips, of these done before, quiet).

    The other arguments and the errors are those of `extract`.
    """
    device = choose_device(options.device)
    extractor, finish, description = prepare(config, options.weights, options.stats)
    extractor = extractor.eval().to(device)
    if options.weights is None and any(True for _ in extractor.stack.parameters()):
        log.warning("no --weights: the stack's weights are drawn at random from seed %d", config.seed)
    if extractor.stack.receptive_field is None:
        log.info("the stack's instance norm looks at whole clips: long ones are held in memory")
    with OutputDir(out, options.part) as output:
        try:
            if options.part != WHOLE:
                description = replace(description, inputs=describe_inputs(inputs.clips))
            output.initialise_or_resume(description, options.overwrite)
            clips = inputs.clips[options.part.slice(len(inputs.clips))]
            run = Run(clips, config, options, extractor, finish, device, output, stopped, finished_shard, progress)
            return run.go()
        except OSError as e:
            raise disk_error(e, out) from e
