"""The statistics of clips, without keeping their features.

It is a run like any other, whose features go nowhere: index, failures and statistics of its shards go to a folder
beside the file that is wanted, which is removed at the end.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hlfeat.config.config import Config
from hlfeat.errors import OutputError
from hlfeat.extraction.extract import extract
from hlfeat.extraction.options import Options
from hlfeat.extraction.report import Report
from hlfeat.files import TEMPORARY
from hlfeat.inputs.clip_list import Inputs
from hlfeat.statistics.dataset_statistics import Statistics
from hlfeat.storage.merge_statistics import merge_statistics


def statistics_of_clips(
    config: Config, inputs: Inputs, out: Path, options: Options
) -> tuple[Statistics | None, Report]:
    """The statistics of all clips' features, frame by frame (None where there are none), and the report of the run.

    Args:
        out: a file; what the run needs on the disk is beside it.

    Raises what `extract` raises.
    """
    frames, options = config.without_pool(), replace(options, keep=False)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=TEMPORARY, dir=out.parent) as folder:
            report = extract(frames, inputs, folder, options)
            return merge_statistics([Path(folder)]) if report.clips else None, report
    except OSError as e:
        raise OutputError(f"{out.parent}: cannot be written: {e.strerror}") from e
