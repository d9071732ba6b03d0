"""The results of a bench as Markdown tables and bar charts; without torch, as they are also read without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Row = dict[str, Any]


def markdown(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows as a Markdown table.

    Args:
        columns: keys of the rows, each with a heading and a format, as in {"ms": "forward, ms|.2f"}.
    """
    heads = [c.partition("|")[0] for c in columns.values()]
    formats = [c.partition("|")[2] for c in columns.values()]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        values = [row.get(key) for key in columns]
        lines.append(["" if v is None else format(v, f) for v, f in zip(values, formats, strict=True)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def append_table(rows: Sequence[Row], columns: Mapping[str, str], say: Callable[[str], None], first: bool) -> None:
    """Hand the next rows of a growing table to `say`; only the `first` ones with its heading."""
    table = markdown(rows, columns)
    say(table if first else table.split("\n", 2)[2])


def bars(values: Mapping[str, Mapping[str, float]], what: str) -> Figure:
    """A bar chart on a logarithmic axis, with a line at 1.

    Args:
        values: for each candidate the ratio in each setting; settings may be missing.
        what: the label of the axis.
    """
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(s for ratios in values.values() for s in ratios))
    figure = Figure(figsize=(max(7.0, 1.2 + max(0.9, 0.2 * len(values)) * len(settings)), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(values)
    for i, (name, ratios) in enumerate(values.items()):
        left = [n + (i - len(values) / 2 + 0.5) * width for n, s in enumerate(settings) if s in ratios]
        axes.bar(left, [ratios[s] for s in settings if s in ratios], width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylabel(what)
    axes.set_xticks(range(len(settings)), [s.replace(", ", ",\n") for s in settings], fontsize="small")
    axes.set_xlabel("setting")
    axes.legend(fontsize="small", ncols=len(values), loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)
    return figure
