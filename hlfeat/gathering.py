"""The statistics of clips, without keeping their features.

It is a run like any other, whose features go nowhere: index, failures and statistics of its shards go to a folder
beside the file that is wanted, which is removed at the end.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hlfeat.config import Config
from hlfeat.devices import extract_on, several
from hlfeat.errors import OutputError
from hlfeat.merging import merged
from hlfeat.pipeline import Options, extract
from hlfeat.shards import TEMPORARY
from hlfeat.sources import Inputs
from hlfeat.statistics_file import Statistics


def gather(config: Config, inputs: Inputs, out: Path, options: Options) -> tuple[Statistics | None, dict[str, Any]]:
    """The statistics of all clips' features, frame by frame (None where there are none), and the report of the run.

    Args:
        out: a file; what the run needs on the disk is beside it.

    Raises what `extract` raises.
    """
    frames, options = config.without_pool(), replace(options, keep=False)
    devices = several(options.device)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=TEMPORARY, dir=out.parent) as folder:
            if len(devices) > 1:
                facts = extract_on(devices, frames, inputs, Path(folder), options)
            else:
                facts = extract(frames, inputs, Path(folder), options).as_dict()
            return merged([Path(folder)]) if facts["clips"] else None, facts
    except OSError as e:
        raise OutputError(f"{out.parent}: cannot be written: {e.strerror}") from e
