"""Pitch tracks as text: `time,frequency,confidence`, as crepe writes them.

Numbers are made as whole numbers of thousandths or millionths, digit by digit for all frames at once. That takes a
fifth of the time of Python's formatting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

HEADER = b"time,frequency,confidence\n"
FREQUENCY_DECIMALS, CONFIDENCE_DECIMALS = 3, 6
_LEAST_DECIMALS, _MOST_DECIMALS = 3, 6  # of the time
_ZERO = ord("0")


class TrackText:
    """The lines of a clip's pitch track.

    Args:
        first, step: frame n is centred on first + n * step, in seconds.

    Attributes:
        decimals: of the time: as many as say exactly where frames are, but from 3 to 6.

    >>> text = TrackText(Fraction(0), Fraction(1, 100))
    >>> chunks = text([np.array([[440.0, 0.875]], np.float32), np.array([[0, 0]], np.float32)])
    >>> b"".join(data for data, frames in chunks).decode().splitlines()
    ['time,frequency,confidence', '0.000,440.000,0.875000', '0.010,0.000,0.000000']
    """

    def __init__(self, first: Fraction, step: Fraction) -> None:
        exact = (d for d in range(_LEAST_DECIMALS, _MOST_DECIMALS) if _is_whole(first * 10**d, step * 10**d))
        self.decimals = next(exact, _MOST_DECIMALS)
        scale = 10**self.decimals
        self._first, self._step = first * scale, step * scale

    def __call__(self, chunks: Iterable[np.ndarray]) -> Iterator[tuple[bytes, int]]:
        """Text, and the number of frames in it: the header, then the lines of each chunk.

        Shape: [n, 2] each: frequency in hertz, from 0, and confidence.
        """
        yield HEADER, 0
        frame = 0
        for rows in chunks:
            yield self._lines(frame, rows), len(rows)
            frame += len(rows)

    def times(self, first: int, n: int) -> np.ndarray:
        """The centres of n frames, in whole numbers of the last decimal: int64 [n]."""
        of_frame = np.arange(first, first + n, dtype=np.int64)
        whole = self._first.denominator * self._step.denominator  # rounded half up, in whole numbers throughout
        start = self._first.numerator * self._step.denominator
        step = self._step.numerator * self._first.denominator
        times: np.ndarray = (2 * (start + step * of_frame) + whole) // (2 * whole)
        return times

    def _lines(self, first: int, rows: np.ndarray) -> bytes:
        values = rows.astype(np.float64)  # in which a float32 times a million is exact
        frequency = np.rint(values[:, 0] * 10**FREQUENCY_DECIMALS).astype(np.int64)
        confidence = np.rint(values[:, 1] * 10**CONFIDENCE_DECIMALS).astype(np.int64)
        columns = [
            *_number(self.times(first, len(rows)), self.decimals),
            b",",
            *_number(frequency, FREQUENCY_DECIMALS),
            b",",
            *_number(confidence, CONFIDENCE_DECIMALS),
            b"\n",
        ]
        text = np.empty((len(rows), len(columns)), np.uint8)
        for i, column in enumerate(columns):
            text[:, i] = column[0] if isinstance(column, bytes) else column
        data: bytes = text[text != 0].tobytes()
        return data


def _number(values: np.ndarray, decimals: int) -> list[np.ndarray | bytes]:
    """The characters of numbers from 0, a column each; 0 stands for none. Shape: int64 [n], in the last decimal."""
    digits = max(decimals + 1, len(str(int(values.max(initial=0)))))
    columns: list[np.ndarray | bytes] = []
    rest = values
    for place in range(digits):
        if place == decimals:
            columns.append(b".")
        rest, digit = np.divmod(rest, 10) if place + 1 < digits else (rest, rest)
        column = (digit + _ZERO).astype(np.uint8)
        if place > decimals:
            column[values < 10**place] = 0  # a zero before the number
        columns.append(column)
    return columns[::-1]


def _is_whole(*values: Fraction) -> bool:
    return all(value.denominator == 1 for value in values)
