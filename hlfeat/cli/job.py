"""The clips of the command's arguments, and those that failed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hlfeat.extraction.report import Report
    from hlfeat.inputs.collect import Inputs


def collect_clips(inputs: Sequence[str], manifests: Sequence[str], null: bool) -> Inputs:
    """The clips of the command's arguments; '-' is a list on standard input."""
    from hlfeat.inputs.collect import collect_inputs

    clips = collect_inputs(list(inputs), sys.stdin.buffer, null, list(manifests))
    skipped = clips.describe_skipped()
    if skipped:
        logging.getLogger("hlfeat").info("%s", skipped)
    return clips


def failures_by_code(report: Report) -> str:
    """'3 clips failed (empty 1, truncated 2)'."""
    from hlfeat.text import count

    facts = report.as_dict()
    codes = ", ".join(f"{code} {n}" for code, n in facts["failures_by_code"].items())
    return f"{count(facts['failures'], 'clip')} failed ({codes})"
