"""Draw results: python -m scripts.evidence.picture results.jsonl OUT.png (needs matplotlib).

On the left, pitch trackers in noise; on the right, learned stacks of two layers and equal cost. Both of the notes of
instruments that nothing was chosen or learned on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from scripts.evidence.intervals import mean_interval
from scripts.evidence.records import Record, Records
from scripts.evidence.stack_tables import NAMES
from scripts.evidence.stacks import ROWS
from scripts.evidence.tables import where
from scripts.evidence.tracker_tables import accuracy
from scripts.evidence.trackers import NOISES, PEERS

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

LINES = {"pitch-salience-fine": "C0", "pitch-salience": "C9", **dict(zip(PEERS, ("C1", "C3", "C2", "C4"), strict=True))}
BARS = {"harmonic": "C0", "dilated": "C1", "plain": "0.6", "wrong": "C3"}


def draw_trackers(axes: Axes, records: Sequence[Record]) -> None:
    for method, colour in LINES.items():
        found = [where(records, source="fluid", method=method, noise=noise) for noise in NOISES]
        places = [i for i, of in enumerate(found) if of]
        shares = [100 * accuracy(found[i][0]).value for i in places]
        ours = method.startswith("pitch-")
        axes.plot(places, shares, "o-" if ours else "s--", color=colour, label=method, markersize=4)
    axes.set_xticks(range(len(NOISES)), ["clean" if n is None else f"{n:g} dB" for n in NOISES])
    axes.set_xlabel("white noise, level of the note over it")
    axes.set_ylabel("frames within 50 cents, %")
    axes.set_title("pitch trackers", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def draw_stacks(axes: Axes, records: Sequence[Record]) -> None:
    width = 0.8 / len(BARS)
    for i, (stack, colour) in enumerate(BARS.items()):
        for j, rows in enumerate(ROWS):
            found = where(records, stack=stack, rows=rows, layers=2, share=1.0)
            if found:
                mean, low, high = (100 * x for x in mean_interval([r["accuracy"] for r in found]))
                error = None if np.isnan(low) else [[mean - low], [high - mean]]
                label = NAMES[stack] if j == 0 else None
                axes.bar(j + (i - 1.5) * width, mean, width, color=colour, label=label, yerr=error, capsize=2)
    axes.set_xticks(range(len(ROWS)), [f"{rows} rows" if rows != "moving mel" else "mel, trained" for rows in ROWS])
    axes.set_title("learned stacks: two layers of equal cost", fontsize=9)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(axis="y", alpha=0.3)


def main(results: str, out: str) -> None:
    records = Records(Path(results))
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    draw_trackers(panels[0], records.of("notes"))
    draw_stacks(panels[1], records.of("stacks"))
    figure.savefig(out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
