"""Tables of spoken digits: accuracy by stack and speaker, differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from scripts.evidence.digits import EXPERIMENT, STACKS
from scripts.evidence.intervals import average, mean_interval, paired_bootstrap
from scripts.evidence.records import Record
from scripts.evidence.tables import markdown, percent, points, where

Runs = list[dict[str, float]]


def tables(records: Iterable[Record]) -> str:
    """Markdown of everything that the records hold."""
    results = where(records, experiment=EXPERIMENT)
    speakers = sorted({r["tested"] for r in results})
    seeds = [
        s for s in sorted({r["seed"] for r in results}) if len(where(results, seed=s)) == len(STACKS) * len(speakers)
    ]
    if not seeds:
        return ""
    lines = []
    for stack in STACKS:
        runs = by_speaker(results, stack, seeds)
        overall = percent(mean_interval([float(np.mean(list(run.values()))) for run in runs]))
        each = [f"{100 * np.mean([run[s] for run in runs]):.1f}" for s in speakers]
        lines.append([stack, overall, *each])
    head = f"Accuracy in percent by held-out speaker, mean over {len(seeds)} seeds ± 95 % interval of seeds:\n"
    differences = []
    for other in STACKS[1:]:
        clips = points(paired_bootstrap(by_clip(results, STACKS[0], seeds), by_clip(results, other, seeds)))
        own, others = (average(by_speaker(results, s, seeds)) for s in (STACKS[0], other))
        people = points(mean_interval([own[name] - others[name] for name in own]))  # six are too few to draw from
        differences.append([f"{STACKS[0]} - {other}", clips, people])
    n_clips = len(by_clip(results, STACKS[0], seeds)[0])
    titles = ["difference in points", f"95 % interval over {n_clips} clips", f"over {len(speakers)} speakers"]
    return "\n".join([head, markdown(["stack", "all", *speakers], lines), markdown(titles, differences)])


def by_speaker(results: Sequence[Record], stack: str, seeds: Iterable[int]) -> Runs:
    """Of each seed, speaker -> accuracy."""
    return [{r["tested"]: r["accuracy"] for r in where(results, stack=stack, seed=seed)} for seed in seeds]


def by_clip(results: Sequence[Record], stack: str, seeds: Iterable[int]) -> Runs:
    """Of each seed, clip -> 1 if it was right, else 0."""
    return [
        {name: right for r in where(results, stack=stack, seed=seed) for name, right in r["clips"].items()}
        for seed in seeds
    ]
