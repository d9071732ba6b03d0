"""The statistics of clips, without keeping their features.

It is a run like any other, whose features go nowhere: index, failures and statistics of its shards go to a folder
beside the file that is wanted, which is removed at the end.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hlfeat.config.config import Config
from hlfeat.errors import OutputError
from hlfeat.extraction.extract import extract
from hlfeat.extraction.multi_device import extract_on, split_devices
from hlfeat.extraction.options import Options
from hlfeat.files import TEMPORARY
from hlfeat.inputs.clip_list import Inputs
from hlfeat.statistics.dataset_statistics import Statistics
from hlfeat.storage.merge_statistics import merge_statistics


def statistics_of_clips(
    config: Config, inputs: Inputs, out: Path, options: Options
) -> tuple[Statistics | None, dict[str, Any]]:
    """The statistics of all clips' features, frame by frame (None where there are none), and the report of the run.

    Args:
        out: a file; what the run needs on the disk is beside it.

    Raises what `extract` raises.
    """
    frames, options = config.without_pool(), replace(options, keep=False)
    devices = split_devices(options.device)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=TEMPORARY, dir=out.parent) as folder:
            if len(devices) > 1:
                facts = extract_on(devices, frames, inputs, Path(folder), options)
            else:
                facts = extract(frames, inputs, Path(folder), options).as_dict()
            return merge_statistics([Path(folder)]) if facts["clips"] else None, facts
    except OSError as e:
        raise OutputError(f"{out.parent}: cannot be written: {e.strerror}") from e
