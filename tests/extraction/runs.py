"""Small runs of `hlfeat.extract`, and what they leave, for the tests of several folders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from hlfeat.config.loading import load_config
from hlfeat.extraction.extract import extract_clips
from hlfeat.extraction.one_part import Work
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.product import FEATURES, Product
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Hooks
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.partition import WHOLE

CHEAP = ["frontend.n_filters=8", "frontend.num_groups=4"]
QUIET = Options(quiet=True, batch_seconds=2.0)


def run(
    folder: Path | Inputs,
    out: Path,
    *overrides: str,
    config: str = "eleaf-8g-opt",
    options: Options = QUIET,
    limits: Limits = DEFAULT_LIMITS,
    product: Product = FEATURES,
    **hooks: Any,
) -> Report:
    """Features of a folder or of clips, with a small filterbank where the configuration has a learnable one."""
    cheap = [] if config == "log-mel" else CHEAP
    inputs = folder if isinstance(folder, Inputs) else collect_inputs([str(folder)], io.BytesIO())
    return extract_clips(
        load_config(config, [*cheap, *overrides]), inputs, out, options, Hooks(**hooks), limits, product
    )


def small_work(folder: Path, out: Path) -> Work:
    """What `parts_by_hand` does, for those who do parts."""
    inputs = collect_inputs([str(folder)], io.BytesIO())
    return Work(load_config(overrides=[*CHEAP, "output.shard_size=2"]), inputs, out, DEFAULT_LIMITS, FEATURES)


def parts_by_hand(folder: Path, out: Path, parts: int, device: str = "cpu") -> dict[str, bytes]:
    """The contents of a directory whose parts were done one by one."""
    for part in WHOLE.split(parts):
        run(folder, out, "output.shard_size=2", options=Options(quiet=True, part=part, device=device))
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    """Everything in a finished directory but the reports, which have times in them."""
    return {name: data for name, data in files_below(out).items() if not name.startswith("report")}


def files_below(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
