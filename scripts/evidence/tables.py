"""Results as tables in Markdown: means over seeds, and differences over instruments, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from scripts.evidence.intervals import Interval, mean_interval, paired_bootstrap
from scripts.evidence.records import Record


def markdown(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table with a heading."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (titles, ["---"] * len(titles), *lines))


def percent(interval: Interval) -> str:
    """A share and its interval, in percent: "83.2 ± 1.2"."""
    half = 100 * (interval.high - interval.low) / 2
    return f"{100 * interval.value:.1f}" if half != half else f"{100 * interval.value:.1f} ± {half:.1f}"


def points(interval: Interval) -> str:
    """A difference and its interval, in points of percent: "+4.1 (+2.0 to +6.3)"; bold where it excludes zero."""
    value, low, high = (f"{100 * x:+.1f}" for x in interval)
    decided = interval.low > 0 or interval.high < 0
    return f"**{value}** ({low} to {high})" if decided else f"{value} ({low} to {high})"


def mean_of(records: Sequence[Record]) -> str:
    """Mean accuracy over seeds, or nothing."""
    return percent(mean_interval([r["accuracy"] for r in records])) if records else ""


def difference(first: Sequence[Record], second: Sequence[Record], by: str = "instruments") -> str:
    """First less second over the seeds that both have, or nothing."""
    seeds = {r["seed"] for r in first} & {r["seed"] for r in second}
    pairs = [[r[by] for r in side if r["seed"] in seeds] for side in (first, second)]
    return points(paired_bootstrap(*pairs)) if seeds else ""


def where(
    records: Iterable[Record], matches: Callable[[Record], bool] = lambda r: True, **fields: object
) -> list[Record]:
    """The records with these values."""
    return [r for r in records if matches(r) and all(r.get(k) == v for k, v in fields.items())]
