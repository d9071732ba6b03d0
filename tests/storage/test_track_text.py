"""Pitch tracks as text: what Python's own formatting writes, whatever the numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.storage.track_text import TrackText

HOPS = [Fraction(1, 100), Fraction(1, 80), Fraction(512, 22050), Fraction(256, 11025), Fraction(1, 1), Fraction(1, 3)]


def lines(text: TrackText, *chunks: np.ndarray) -> list[str]:
    data = b"".join(data for data, _ in text(chunks)).decode()
    assert data.endswith("\n")
    return data.splitlines()


def rounded(time: Fraction, decimals: int) -> str:
    """As printed, half a unit up."""
    units = (time * 10**decimals + Fraction(1, 2)) // 1
    return f"{units // 10**decimals}.{units % 10**decimals:0{decimals}d}"


@given(st.integers(0, 2**32), st.sampled_from(HOPS), st.sampled_from([Fraction(0), Fraction(3, 2)]))
def test_is_what_python_formats(seed, hop, shift):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    frequency = rng.choice([0, 27.5, 440, 7040, 0.0005, 999.9996, 24000], n) + rng.choice([0, 1], n) * rng.random(n)
    confidence = rng.choice([0, 1, 1e-7, 0.9999999, 0.5], n) * rng.choice([1, rng.random()], n)
    rows = np.stack([frequency, confidence], 1).astype(np.float32)
    text = TrackText(shift * hop, hop)
    cut = int(rng.integers(0, n + 1))
    expected = [
        f"{rounded((shift + i) * hop, text.decimals)},{float(f):.3f},{float(c):.6f}" for i, (f, c) in enumerate(rows)
    ]
    assert lines(text, rows[:cut], rows[cut:]) == ["time,frequency,confidence", *expected]


@pytest.mark.parametrize(
    ("hop", "decimals"), [(Fraction(1, 100), 3), (Fraction(1, 80), 4), (Fraction(1, 128), 6), (Fraction(512, 22050), 6)]
)
def test_the_time_has_as_many_decimals_as_it_needs(hop, decimals):
    text = TrackText(Fraction(0), hop)
    assert text.decimals == decimals
    assert lines(text, np.zeros((2, 2), np.float32))[1].split(",")[0] == f"{0:.{decimals}f}"


def test_the_time_of_a_day_does_not_drift():
    """float32 seconds would be off by half a frame after a day."""
    text, hop = TrackText(Fraction(0), Fraction(512, 22050)), 512 / 22050
    assert abs(text.times(10**7, 1)[0] / 1e6 - 10**7 * hop) < 1e-6


def test_no_frames_are_a_header():
    text = TrackText(Fraction(0), Fraction(1, 100))
    assert lines(text) == lines(text, np.zeros((0, 2), np.float32)) == ["time,frequency,confidence"]
