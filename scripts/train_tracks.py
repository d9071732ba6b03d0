"""What scripts/train.py --task pitch learns from: a clip's frequency over time, from a file or from a note's name."""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hlfeat import ClipLabel, UsageError

ENDING = ".f0.csv"
COLUMNS = ("time", "frequency")
REACH = 0.75  # steps: the middle between two rows is known, also where times are rounded; a lost row is not


@dataclass(frozen=True)
class Track:
    """Frequency over time.

    Args:
        times: seconds from the clip's start, increasing. Shape: float64 [M], M >= 1.
        freqs: hertz; 0: no pitch. Shape: float64 [M].
        step: seconds from row to row. Further than `REACH` steps from any row, nothing is known.
    """

    times: np.ndarray
    freqs: np.ndarray
    step: float

    @classmethod
    def of_note(cls, hertz: float) -> Track:
        """The same frequency at all times."""
        return cls(np.zeros(1), np.array([hertz]), math.inf)

    def at(self, times: np.ndarray) -> np.ndarray:
        """Hertz at these seconds; 0: no pitch; NaN: the track does not reach there. Shape: [N] -> float64 [N].

        Between two rows that both have a pitch it is linear in log frequency; else the nearer row decides.
        """
        above = np.searchsorted(self.times, times).clip(0, len(self.times) - 1)
        below = np.maximum(above - 1, 0)
        gap = self.times[above] - self.times[below]
        weight = ((times - self.times[below]) / np.where(gap > 0, gap, 1)).clip(0, 1)  # of the row above
        low, high = self.freqs[below], self.freqs[above]
        between = (low > 0) & (high > 0) & (gap <= 2 * REACH * self.step)
        with np.errstate(divide="ignore", invalid="ignore"):
            glide = low * (high / low) ** weight
        near = np.where(weight < 0.5, below, above)
        distance = np.abs(times - self.times[near])
        return np.where(distance <= REACH * self.step, np.where(between, glide, self.freqs[near]), np.nan)

    def digest(self) -> int:
        """A number that another track hardly has."""
        return zlib.crc32(self.freqs.tobytes(), zlib.crc32(self.times.tobytes()))


def read_track(path: Path) -> Track:
    """A table of time in seconds and frequency in hertz, separated by commas, below a header line.

    Raises:
        UsageError: it cannot be read, has no such columns, or a row is wrong; with file and line.
    """
    rows: list[tuple[float, float]] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            names = [name.strip() for name in next(reader, [])]
            if not set(COLUMNS) <= set(names):
                raise UsageError(f"{path}:1: expected the columns {', '.join(COLUMNS)}, got {', '.join(names[:8])}")
            places = [names.index(name) for name in COLUMNS]
            for values in reader:
                if values:
                    try:
                        rows.append(row_of(values, places, rows[-1][0] if rows else -math.inf))
                    except ValueError as e:
                        raise UsageError(f"{path}:{reader.line_num}: {e}") from e
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
    if not rows:
        raise UsageError(f"{path}: expected a row for each time, got none")
    times, freqs = np.array(rows).T
    return Track(times, freqs, float(np.median(np.diff(times))) if len(rows) > 1 else 0.01)


def row_of(values: Sequence[str], places: Sequence[int], after: float) -> tuple[float, float]:
    """Time and frequency of a row, whose time has to be later than `after`. Raises ValueError."""
    if len(values) <= max(places):
        raise ValueError(f"expected {max(places) + 1} values or more, got {len(values)}")
    time, frequency = (number(values[i], name) for i, name in zip(places, COLUMNS, strict=True))
    if time <= after:
        raise ValueError(f"time: expected more than {after:g}, the time before, got {time:g}")
    if frequency < 0:
        raise ValueError(f"frequency: expected hertz, 0 for no pitch, got {frequency:g}")
    return time, frequency


def number(text: str, name: str) -> float:
    """A finite number. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {text.strip()[:40] or 'nothing'}")
    return value


def find_tracks(folder: Path, ids: Sequence[str]) -> dict[str, Track]:
    """The tracks that lie in a folder, by the ids of clips: of `a/b.wav`, a/b.wav.f0.csv or else a/b.f0.csv.

    Raises:
        UsageError: there is none, or one is wrong.
    """
    tracks: dict[str, Track] = {}
    for id_ in ids:
        names = (id_ + ENDING, str(Path(id_).with_suffix(ENDING)))
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is not None:
            tracks[id_] = read_track(path)
    if ids and not tracks:
        raise UsageError(f"{folder}: expected tracks, such as {ids[0]}{ENDING}, got none; or --labels with frequencies")
    return tracks


def notes_of(table: Mapping[str, ClipLabel], place: Path, column: str, ids: Sequence[str]) -> dict[str, Track]:
    """The tracks of single notes, whose frequencies are labels of a table.

    Args:
        place: of the table, and `column` that of frequencies, for errors.

    Raises:
        UsageError: one is no frequency.
    """
    tracks = {}
    for id_ in ids:
        try:
            hertz = number(table[id_].label, column)
            if hertz <= 0:
                raise ValueError(f"{column}: expected hertz above 0, got {hertz:g}")
        except ValueError as e:
            raise UsageError(f"{place}: {id_}: {e}") from e
        tracks[id_] = Track.of_note(hertz)
    return tracks
