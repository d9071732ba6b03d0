"""The lines that `hlfeat inspect` prints about a feature directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from hlfeat.inspection.damage import Damage
from hlfeat.inspection.summary import Inspection, histogram
from hlfeat.statistics.moments import Moments
from hlfeat.storage.description import FeatureShape, RunDescription
from hlfeat.text import count, duration, escape_unprintable, size

SHOWN = 8  # ids that are named; the JSON has all
BAR = 40  # characters of the longest


Fact = tuple[str, str]  # its name, and what is so; more about the fact before it has no name


def summary_lines(inspection: Inspection, verified: bool = False, bands: bool = False) -> Iterator[str]:
    """What an inspection says.

    Args:
        verified: whether the directory has been verified, without a mismatch.
        bands: a line of statistics for each band, not for each channel.
    """
    yield escape_unprintable(str(inspection.folder.place))
    yield from fact_lines(summary_facts(inspection, verified))
    if inspection.moments.frames:
        yield ""
        yield from _table(inspection.moments, bands, inspection.folder.description.features)
    yield from duration_lines(inspection.durations)


def fact_lines(facts: Iterable[Fact]) -> Iterator[str]:
    """Facts as they are printed."""
    for name, text in facts:
        yield f"  {name:<9} {text}"


def summary_facts(inspection: Inspection, verified: bool = False) -> Iterator[Fact]:
    """What an inspection says of the whole directory. `verified`: as of `summary_lines`."""
    folder = inspection.folder
    row = ", ".join(map(str, folder.shape))
    shards = count(len(folder.shards), "shard") + (f" ({inspection.data_suffix})" if inspection.data_suffix else "")
    features = (
        f"[{inspection.moments.frames}, {row}] {folder.dtype} in {shards}, "
        f"{size(inspection.data_bytes)}{_axes(folder.description.features)}"
    )
    yield from directory_facts(inspection.durations, ("features", features), inspection.failures, inspection.missing)
    yield from damaged_facts(inspection.damaged, folder.place.remedy)
    if verified:
        yield "verified", "yes: sums, rows, ids and statistics are those of the data"
    unknown = len(inspection.without_statistics)
    but = f" (not known of {count(unknown, 'shard')} without statistics)" if unknown else ""
    yield "silent", f"{_ids(inspection.silent)}{but}"
    yield "constant", _ids(inspection.constant)
    yield from made_by(folder.description)


def directory_facts(
    durations: np.ndarray, holds: Fact, failures: Counter[str], missing: Sequence[str]
) -> Iterator[Fact]:
    """What every directory has: clips, what is made of them, failures, whether it is complete.

    Shape: durations [clips].
    """
    yield "clips", f"{len(durations)}{_lengths(durations)}"
    yield holds
    codes = ", ".join(f"{code} {k}" for code, k in sorted(failures.items()))
    yield "failures", f"{failures.total()}" + (f": {codes}" if codes else "")
    yield "complete", "yes" if not missing else f"no: {'; '.join(missing)}"


def damaged_facts(damaged: Sequence[Damage], remedy: str) -> Iterator[Fact]:
    """What could not be read, one by one, and what to do about it; nothing where all is well."""
    if damaged:
        yield "damaged", f"{len(damaged)}, which the figures leave out ({remedy}):"
        for damage in damaged:
            yield "", escape_unprintable(damage.reason)


def duration_lines(durations: np.ndarray) -> Iterator[str]:
    """An empty line and a histogram; nothing where there are no clips. Shape: [clips]."""
    if len(durations):
        yield ""
        yield from _bars(durations)


def _lengths(durations: np.ndarray) -> str:
    if not len(durations):
        return ""
    total = f", {duration(float(durations.sum()))}"
    if len(durations) == 1:
        return total
    low, median, high = (duration(float(q)) for q in np.quantile(durations, (0, 0.5, 1)))
    return f"{total}: {low} to {high}, median {median}"


def _axes(features: FeatureShape) -> str:
    if features.pool:
        return f"; pooled: {features.pool}"
    rate = f"; {features.frames_per_second:g} frames a second" if features.frames_per_second else ""
    return rate + (f"; bands at {min(features.freqs):.4g} to {max(features.freqs):.4g} Hz" if features.freqs else "")


def _ids(ids: list[str]) -> str:
    named = ", ".join(map(escape_unprintable, ids[:SHOWN]))
    more = f", and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"{len(ids)}: {named}{more}" if ids else "0"


def made_by(description: RunDescription) -> Iterator[Fact]:
    """Configuration, weights, statistics and versions, as hlfeat.yaml has them."""
    config = description.config
    about = config.get("description") or (config.get("frontend") or {}).get("kind", "")
    yield "config", f"{escape_unprintable(' '.join(str(about).split()))} (fingerprint {description.fingerprint[:12]})"
    for key, file in (("weights", description.weights), ("stats", description.stats)):
        if file is not None:
            yield key, f"{escape_unprintable(file.path)} (sha256 {file.sha256[:12]})"
    if description.versions is not None:
        yield "versions", ", ".join(f"{k} {v}" for k, v in description.versions.items())


COLUMNS: dict[str, Callable[[Moments], np.ndarray]] = {
    "mean": lambda m: m.mean,
    "std": lambda m: np.sqrt(m.variance),
    "min": lambda m: m.min,
    "max": lambda m: m.max,
}


def _table(moments: Moments, bands: bool, shape: FeatureShape) -> Iterator[str]:
    """A line for each channel with the range of its bands, or a line for each band; of vectors, for each half."""
    channels, width, halves, freqs = shape.channels, shape.bands, shape.halves or ("",), shape.freqs
    columns = [column(moments).reshape(len(halves), channels, width) for column in COLUMNS.values()]
    of = f" {'of':>5}" if shape.halves else ""
    rows = [(f" {half:>5}" if half else "", h, c) for h, half in enumerate(halves) for c in range(channels)]
    if bands:
        hertz = [f" {f:>10.6g}" for f in freqs] if freqs else [""] * width
        yield (
            f" {of} {'channel':>7} {'band':>5}"
            + (f" {'Hz':>10}" if freqs else "")
            + "".join(f" {name:>10}" for name in COLUMNS)
        )
        for half, h, c in rows:
            for b in range(width):
                values = "".join(f" {column[h, c, b]:>10.4g}" for column in columns)
                yield f" {half} {c:>7} {b:>5}{hertz[b]}{values}"
        return
    yield f" {of} {'channel':>7}" + "".join(f"  {name:>20}" for name in COLUMNS) + f"   (over {count(width, 'band')})"
    for half, h, c in rows:
        yield f" {half} {c:>7}" + "".join(f"  {_range(column[h, c]):>20}" for column in columns)


def _range(values: np.ndarray) -> str:
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"


def _bars(durations: np.ndarray) -> Iterator[str]:
    """A histogram of durations: a line for each bin, with a bar."""
    bins = histogram(durations)
    most = max(n for _, _, n in bins)
    names = [f"{a:g} to {b:g} s" for a, b, _ in bins]
    name_width, count_width = max(map(len, ["duration", *names])), max(len("clips"), len(str(most)))
    yield f"  {'duration':>{name_width}} clips"
    for name, (_, _, n) in zip(names, bins, strict=True):
        bar = "#" * max(int(n > 0), round(BAR * n / most))
        yield f"  {name:>{name_width}} {n:>{count_width}} {bar}".rstrip()
