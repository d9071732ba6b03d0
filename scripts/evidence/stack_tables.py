"""Tables of learned stacks: accuracies, differences, dilations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from scripts.evidence.records import Record
from scripts.evidence.stacks import EXPERIMENT, LAYERS, ROWS, TUNING, best_dilations
from scripts.evidence.tables import difference, markdown, mean_of, where

NAMES = {"harmonic": "harmonic", "salience": "harmonic, `init: salience`", "dilated": "dilated", "plain": "plain",
         "wrong": "harmonic, wrong axis"}  # fmt: skip
PAIRS = (("harmonic", "dilated"), ("harmonic", "plain"), ("harmonic", "wrong"), ("salience", "harmonic"))


def tables(records: Iterable[Record]) -> str:
    """Markdown of everything that the records hold."""
    records = list(records)
    results, tuned = where(records, experiment=EXPERIMENT), where(records, experiment=TUNING)
    if not results:
        return ""
    seeds = len({r["seed"] for r in results})
    return "\n".join(
        [
            f"Raw pitch accuracy in percent on the test half, mean over {seeds} seeds ± 95 % interval of seeds:\n",
            accuracy_table(results),
            "Differences in points, with 95 % intervals over instruments; bold where they exclude zero:\n",
            difference_table(results),
            "What the stacks cost, and the dilations that were chosen on the training half:\n",
            cost_table(results, tuned),
        ]
    )


def conditions(results: Sequence[Record]) -> list[tuple[str, int, float]]:
    """(rows, layers, share) that the results have, in order."""
    there = {(r["rows"], r["layers"], r["share"]) for r in results}
    return sorted(there, key=lambda c: (ROWS.index(c[0]), c[1], c[2]))


def accuracy_table(results: Sequence[Record]) -> str:
    lines = []
    for rows, layers, share in conditions(results):
        there = where(results, rows=rows, layers=layers, share=share)
        lines.append([rows, str(layers), f"{100 * share:g} %", *(mean_of(where(there, stack=s)) for s in NAMES)])
    return markdown(["rows", "layers", "training data", *NAMES.values()], lines)


def difference_table(results: Sequence[Record]) -> str:
    lines = []
    for rows, layers, share in conditions(results):
        there = where(results, rows=rows, layers=layers, share=share)
        cells = [difference(where(there, stack=a), where(there, stack=b)) for a, b in PAIRS]
        lines.append([rows, str(layers), f"{100 * share:g} %", *cells])
    return markdown(["rows", "layers", "training data", *(f"{NAMES[a]} - {NAMES[b]}" for a, b in PAIRS)], lines)


def cost_table(results: Sequence[Record], tuned: Sequence[Record]) -> str:
    best = best_dilations(tuned)
    lines = []
    for rows in dict.fromkeys(r["rows"] for r in results):
        for layers in LAYERS:
            there = where(results, rows=rows, layers=layers)
            if not there:
                continue
            sizes = {(r["parameters"], r["multiply_adds"]) for r in there}
            parameters, products = (
                " or ".join(f"{n:,}" for n in sorted(set(column))) for column in zip(*sizes, strict=True)
            )
            seconds = float(np.mean([r["core_seconds"] for r in there]))
            dilation = str(best[rows, layers]) if (rows, layers) in best else ""
            lines.append([rows, str(layers), parameters, products, dilation, f"{seconds:.1f} s"])
    titles = ["rows", "layers", "parameters", "multiply-adds a frame", "dilation", "training and test, one core"]
    return markdown(titles, lines)
