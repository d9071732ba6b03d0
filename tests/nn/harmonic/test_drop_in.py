"""Arguments of nn.Conv2d that have a meaning in time, and the axes that modules take."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hlfeat
from hlfeat.nn.harmonic.axis_conv import MODES


@given(
    taps=st.integers(1, 5),
    padding=st.sampled_from([0, 1, 2, (0, 2), "same", "valid"]),
    mode=st.sampled_from(MODES),
    dilation=st.sampled_from([1, 2, (1, 3)]),
    stride=st.integers(1, 2),
    frames=st.integers(16, 20),
    seed=st.integers(0, 99),
)
def test_one_harmonic_is_a_convolution_in_time(taps, padding, mode, dilation, stride, frames, seed):
    """With one harmonic, the row itself, nn.Conv2d with a kernel of one row is the same."""
    torch.manual_seed(seed)
    if padding == "same":
        stride = 1
    arguments = {"stride": stride, "padding_mode": mode}
    ours = hlfeat.HarmonicConv2d(2, 3, (1, taps), padding=padding, dilation=dilation, **arguments)
    theirs = nn.Conv2d(
        2, 3, (1, taps), padding=(0, padding) if isinstance(padding, int) else padding,
        dilation=(1, dilation) if isinstance(dilation, int) else dilation, **arguments,
    )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, 6, frames)
    if frames < dilation_of(dilation) * (taps - 1) + 1:
        return
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours.padding == (padding if isinstance(padding, str) else theirs.padding)
    assert ours.dilation == theirs.dilation


def dilation_of(dilation: int | tuple[int, int]) -> int:
    return dilation if isinstance(dilation, int) else dilation[1]


@pytest.mark.parametrize(
    "build",
    [
        lambda: hlfeat.HarmonicConv2d(2, 3, 3, padding=1),
        lambda: hlfeat.LogHarmonicConv2d(2, 3, 3, padding="same", bins_per_octave=3),
        lambda: hlfeat.MixedHarmonicConv2d(
            hlfeat.LinearAxis(), 2, 3, 3, padding=1, padding_mode="reflect", anchors=(1, 2)
        ),
    ],
)
def test_a_spectrogram_without_a_batch(build):
    torch.manual_seed(0)
    conv, x = build(), torch.randn(2, 9, 7)
    assert conv(x).shape == (3, 9, 7)
    torch.testing.assert_close(conv(x), conv(x[None])[0])


def test_inputs_of_another_shape():
    with pytest.raises(ValueError, match=r"an input \[B, 2, F, T\] or \[2, F, T\], got \[3, 9, 7\]"):
        hlfeat.HarmonicConv2d(2, 3, 3)(torch.randn(3, 9, 7))


def test_bins_per_octave_is_the_axis_of_a_constant_q_transform():
    conv = hlfeat.LogHarmonicConv2d(1, 4, (4, 3), bins_per_octave=12)
    assert conv.positions(84)[:, 0].tolist() == pytest.approx([0.0, 12.0, 19.01955, 24.0], abs=1e-4)
    published = hlfeat.LogHarmonicConv2d(1, 4, (4, 3), out_log_scale=12, radix=2)
    assert torch.equal(published.positions(84), conv.positions(84))
    given_ = hlfeat.LogHarmonicConv2d(1, 4, (4, 3), axis=hlfeat.LogAxis(12, 2.0))
    assert given_.axis == conv.axis


@pytest.mark.parametrize(
    "arguments",
    [
        {"bins_per_octave": 12, "radix": 2.0},
        {"bins_per_octave": 12, "out_log_scale": 12},
        {"axis": hlfeat.LogAxis(12, 2.0), "bins_per_octave": 12},
        {"axis": hlfeat.LogAxis(12, 2.0), "in_log_scale": 1.0},
    ],
)
def test_one_way_to_say_what_the_axis_is(arguments):
    with pytest.raises(ValueError, match="one of axis, bins_per_octave, and out_log_scale"):
        hlfeat.LogHarmonicConv2d(1, 4, 3, **arguments)


def test_impossible_bins():
    with pytest.raises(ValueError, match="bins_per_octave > 0, got 0"):
        hlfeat.LogHarmonicConv2d(1, 4, 3, bins_per_octave=0)


def test_an_axis_of_any_kind():
    axis = hlfeat.CentreAxis.of([100.0, 200.0, 400.0])
    assert hlfeat.HarmonicConv2d(1, 1, 3, axis=axis).axis is axis
    assert hlfeat.HarmonicConv2d(1, 1, 3, centre_freqs=[100.0, 200.0, 400.0]).axis == axis


def test_a_layer_without_harmonics_says_so_once():
    """The published defaults mean 693 rows an octave: on 84 rows there is nothing but the row itself."""
    conv, x = hlfeat.LogHarmonicConv2d(1, 4, (5, 3), padding=1), torch.randn(1, 1, 84, 5)
    with pytest.warns(UserWarning, match=r"no harmonic lies on the axis of 84 rows \(log, 693\.147 rows an octave\)"):
        conv(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conv(x)
        conv(torch.randn(1, 1, 60, 5))
        for quiet in (
            hlfeat.LogHarmonicConv2d(1, 4, (5, 3), bins_per_octave=12),
            hlfeat.LogHarmonicConv2d(1, 4, (1, 3)),  # a kernel of the row alone wants no harmonics
        ):
            quiet(x)
