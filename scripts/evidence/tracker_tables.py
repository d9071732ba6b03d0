"""Pitch trackers as tables: shares of right frames, and how far hlfeat's are from the best and from each peer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from scripts.evidence.intervals import Interval, bootstrap
from scripts.evidence.records import Record
from scripts.evidence.tables import markdown, percent, points
from scripts.evidence.trackers import METHODS, NOISES, OURS, PEERS, TOLERANCE

COMMON = (47.0, 1970.0)  # hertz that all methods can say
OCTAVE = 1200.0  # cents

Keep = Callable[[str, int, float], bool]  # instrument, number of the note in it, hertz


def tables(records: Sequence[Record]) -> str:
    """All tables, as Markdown."""
    parts = []
    for source, title in (("fluid", "The test half of the soundfont"), ("philharmonia", "Philharmonia's notes")):
        chosen = [r for r in records if r["source"] == source]
        if not chosen:
            continue
        parts.append(f"**{title}**: {_count(chosen, _all)}\n\n{_shares(chosen, _all)}")
        parts.append(f"The same, {COMMON[0]:g} to {COMMON[1]:g} Hz only: {_count(chosen, _common)}\n\n"
                     f"{_shares(chosen, _common)}")  # fmt: skip
        if source == "philharmonia":
            wrong = contradicted(chosen)
            kept = _except(wrong)
            title = f"The same, without the {len(wrong)} notes that two peers contradict"
            parts.append(f"{title}: {_count(chosen, kept)}\n\n{_shares(chosen, kept)}")
        parts.append(f"Differences, in points, over all notes\n\n{_differences(chosen)}")
        parts.append(f"Averaged over instruments, whatever their number of notes\n\n{_over_instruments(chosen)}")
    return "\n".join(parts)


def _all(instrument: str, number: int, hertz: float) -> bool:
    return True


def _common(instrument: str, number: int, hertz: float) -> bool:
    return COMMON[0] <= hertz <= COMMON[1]


def _except(wrong: frozenset[tuple[str, int]]) -> Keep:
    return lambda instrument, number, hertz: (instrument, number) not in wrong


def accuracy(record: Record, keep: Keep = _all, less: Record | None = None) -> Interval:
    """Share of right frames, averaged over notes; or how much larger it is than another method's.

    The interval is of draws of instruments, each with all its notes.
    """
    other = record if less is None else less
    values, weights = [], []
    for name, of in record["notes"].items():
        pairs = zip(of, other["notes"][name], strict=True)
        shares = [a[1] - (0.0 if less is None else b[1]) for i, (a, b) in enumerate(pairs) if keep(name, i, a[0])]
        if shares:
            values.append(float(np.mean(shares)))
            weights.append(len(shares))
    return bootstrap(values, weights=weights)


def over_instruments(record: Record) -> float:
    """Share of right frames, averaged over an instrument's notes, and then over instruments."""
    return float(np.mean([np.mean([note[1] for note in of]) for of in record["notes"].values()]))


def contradicted(records: Sequence[Record]) -> frozenset[tuple[str, int]]:
    """Notes for which two peers agree, without noise, on another pitch than the label: (instrument, number)."""
    clean = [r for r in records if r["noise"] is None and r["method"] in PEERS]
    wrong = set()
    for name, notes in clean[0]["notes"].items() if clean else ():
        for i, (hertz, *_) in enumerate(notes):
            medians = [r["notes"][name][i][2] for r in clean]
            others = [m for m in medians if m > 0 and _cents(m, hertz) > TOLERANCE]
            if any(_cents(a, b) <= TOLERANCE for k, a in enumerate(others) for b in others[k + 1 :]):
                wrong.add((name, i))
    return frozenset(wrong)


def _cents(a: float, b: float) -> float:
    return abs(OCTAVE * float(np.log2(a / b)))


def _of(records: Iterable[Record], method: str, noise: float | None) -> Record | None:
    return next((r for r in records if r["method"] == method and r["noise"] == noise), None)


def _count(records: Sequence[Record], keep: Keep) -> str:
    notes = {n: sum(keep(n, i, of[0]) for i, of in enumerate(all_)) for n, all_ in records[0]["notes"].items()}
    return f"{sum(notes.values())} notes of {sum(n > 0 for n in notes.values())} instruments."


def _title(noise: float | None) -> str:
    return "clean" if noise is None else f"{noise:g} dB"


def _shares(records: Sequence[Record], keep: Keep) -> str:
    lines = []
    for method in METHODS:
        cells = [_of(records, method, noise) for noise in NOISES]
        shown = ["" if r is None else percent(accuracy(r, keep)) for r in cells]
        if any(shown):
            lines.append([method, *shown])
    return markdown(["method", *map(_title, NOISES)], lines)


def _over_instruments(records: Sequence[Record]) -> str:
    cells = {m: [_of(records, m, noise) for noise in NOISES] for m in METHODS}
    lines = [[m, *("" if r is None else f"{100 * over_instruments(r):.1f}" for r in of)] for m, of in cells.items()]
    return markdown(["method", *map(_title, NOISES)], [line for line in lines if any(line[1:])])


def _differences(records: Sequence[Record]) -> str:
    lines = []
    for ours in OURS:
        for peer in PEERS:
            cells = []
            for noise in NOISES:
                a, b = _of(records, ours, noise), _of(records, peer, noise)
                cells.append("" if a is None or b is None else points(accuracy(a, less=b)))
            if any(cells):
                lines.append([f"{ours} - {peer}", *cells])
    return markdown(["difference", *map(_title, NOISES)], lines)
