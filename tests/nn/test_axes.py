"""Axes after strides and pooling: rows stand for the frequencies that they are made of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlfeat
from hlfeat.nn.axes import Axis, CentreAxis, LinearAxis, LogAxis

ROWS = 24


def frequencies(axis: Axis, rows: int) -> torch.Tensor:
    """Of each row, up to a factor that harmonics do not see."""
    f = torch.arange(rows, dtype=torch.float64)
    if isinstance(axis, CentreAxis):
        return torch.tensor(axis.freqs[:rows], dtype=torch.float64)
    return f + axis.first if isinstance(axis, LinearAxis) else axis.radix ** (f / axis.scale)


AXES = {
    "linear": LinearAxis(),
    "linear, first": LinearAxis(2.5),
    "log": LogAxis(7.0, 2.0),
    "centre": CentreAxis.of([50.0 + 3 * i**1.7 for i in range(ROWS)]),
    "centre, any order": CentreAxis.of([50.0 + 3 * ((7 * i) % ROWS) ** 1.7 for i in range(ROWS)]),
}


@pytest.mark.parametrize("name", AXES)
@given(sizes=st.lists(st.tuples(st.sampled_from(["pooled", "every"]), st.integers(1, 3)), max_size=2))
def test_pooled_and_kept_rows_have_the_frequencies_that_they_stand_for(name, sizes):
    axis, wanted = AXES[name], frequencies(AXES[name], ROWS)
    for what, size in sizes:
        axis = getattr(axis, what)(size)
        if what == "every":
            wanted = wanted[::size]
        else:
            windows = wanted[: len(wanted) // size * size].view(-1, size)
            wanted = windows.log().mean(1).exp() if name == "log" else windows.mean(1)
    got = frequencies(axis, len(wanted))
    torch.testing.assert_close(got * wanted[-1], wanted * got[-1])


def test_a_linear_axis_that_begins_elsewhere():
    """Row 0 at 1.5 distances: its second harmonic lies at 3, which is row 1.5."""
    positions = LinearAxis(1.5).positions(4, 2, 1)
    assert positions.tolist() == [[0.0, 1.0, 2.0, 3.0], [1.5, 3.5, 5.5, 7.5]]
    assert LinearAxis(1.5).describe() == "linear from 1.5 rows up"
    assert LinearAxis() == LinearAxis(0.0)


def test_harmonics_after_max_pooling_are_where_they_were():
    """A tone and its octave, on a spectrogram of half as many rows: the layer finds both together."""
    x = torch.zeros(1, 1, 64, 3)
    x[:, :, 10:12] = x[:, :, 21:23] = 1.0
    pooled = torch.nn.functional.max_pool2d(x, (2, 1))
    conv = hlfeat.HarmonicConv2d(1, 1, (2, 1), bias=False, axis=LinearAxis().pooled(2))
    with torch.no_grad():
        conv.weight[:] = 1
        y = conv(pooled)[0, 0, :, 0]
    assert int(y.argmax()) == 5
    assert y[5] == 2  # the octave of row 5, 10.5 distances, is row 10.25: between rows 10 and 11


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearAxis(-0.5), "first: expected a finite number from 0, got -0.5"),
        (lambda: LinearAxis(float("nan")), "first: "),
        (lambda: LogAxis(0, 2.0), "scale: expected a finite number above 0, got 0"),
        (lambda: LogAxis(12, 1.0), "radix: expected a finite number above 1, got 1.0"),
        (lambda: LogAxis(float("inf"), 2.0), "scale: "),
    ],
)
def test_what_is_no_axis_is_refused(make, message):
    with pytest.raises(hlfeat.AxisError, match=message):
        make()
