"""How the recipe of all stacks was chosen: candidates, judged on a third of the training instruments at a time.

    python -m scripts.evidence.stack_recipe FluidR3_GM.sf2         # about ten minutes of two cores

Prints a table with a row for each candidate. The test half is not read. One recipe is taken for all stacks, so that
none of them is favoured but by chance: the one with the best mean over stacks and rows, the cheaper of two that are
equal within a point. How the channels of `salience` start is chosen with it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace

from hlfeat import HlfeatError
from scripts.evidence.intervals import mean_interval
from scripts.evidence.note_frames import FOLDS
from scripts.evidence.records import Record
from scripts.evidence.stack_nets import STARTS
from scripts.evidence.stacks import RECIPE, Job, job, prepare, work
from scripts.evidence.tables import markdown
from scripts.evidence.workers import run_jobs

CANDIDATES = [
    replace(RECIPE, channels=channels, steps=steps, rate=rate)
    for channels in (8, 16) for steps, rate in ((300, 0.003), (300, 0.01), (300, 0.03), (150, 0.01))
]  # fmt: skip
KINDS = {"harmonic": 1, "plain": 1, "dilated": 4}  # with a dilation
TRIED = [(rows, stack, dilation) for rows in ("log", "mel") for stack, dilation in KINDS.items()]
SHARES = (0.01, 0.1, 1.0)


def candidate_jobs() -> list[Job]:
    """Two layers, all training data, of every candidate; then the starts of `salience`, with little data too."""
    recipes = [
        job("recipe", rows, stack, 2, 1.0, fold, dilation, recipe, fold=fold)
        for recipe in CANDIDATES for rows, stack, dilation in TRIED for fold in range(FOLDS)
    ]  # fmt: skip
    starts = [
        job("start", rows, "salience", 2, share, seed, 1, replace(RECIPE, start=start), fold=seed % FOLDS)
        for start in STARTS for rows in ("log", "mel") for share in SHARES for seed in range(2 * FOLDS)
    ]  # fmt: skip
    return recipes + starts


def tables(records: Sequence[Record]) -> str:
    """Markdown: mean accuracies over folds."""

    def mean(**fields: object) -> float:
        there = [r["accuracy"] for r in records if all(r[k] == v for k, v in fields.items())]
        return 100 * mean_interval(there).value

    lines = []
    for recipe in CANDIDATES:
        one = {"experiment": "recipe", "recipe": asdict(recipe)}
        cells = [f"{mean(rows=rows, stack=stack, **one):.1f}" for rows, stack, _ in TRIED]
        lines.append([f"{recipe.channels}", f"{recipe.steps}", f"{recipe.rate:g}", *cells, f"{mean(**one):.1f}"])
    titles = ["channels", "steps", "learning rate", *(f"{rows} {stack}" for rows, stack, _ in TRIED), "mean"]
    starts = []
    for start in STARTS:
        one = {"experiment": "start", "recipe": asdict(replace(RECIPE, start=start))}
        starts.append([start, *(f"{mean(rows=r, share=s, **one):.1f}" for r in ("log", "mel") for s in SHARES)])
    heads = ["start", *(f"{rows}, {100 * share:g} %" for rows in ("log", "mel") for share in SHARES)]
    return markdown(titles, lines) + "\n" + markdown(heads, starts)


def main() -> int:
    """Exit status: 0 done, 2 the file cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("font", help="a General MIDI SoundFont 2 file")
    font = parser.parse_args().font
    try:
        with tempfile.TemporaryDirectory(prefix="evidence-") as folder:
            halves = [{"half": "train", "kind": rows} for rows in ("log", "mel")]
            run_jobs(prepare, halves, font, folder, write=lambda record: None)
            print(tables(run_jobs(work, candidate_jobs(), folder, write=lambda record: None)))
    except HlfeatError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
