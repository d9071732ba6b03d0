"""Filters like those of a constant-Q transform: where they are, that each hears its own note, and what they cost."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import hlfeat
from hlfeat.nn.layers.harmonic import HarmonicLayer

C1 = 440 * 2 ** (-45 / 12)
BANKS = {"EfficientLeaf": lambda n, **more: hlfeat.EfficientLeaf(n, min(n, 4), **more), "Leaf": hlfeat.Leaf}


@pytest.mark.parametrize("bank", BANKS)
@given(
    n_filters=st.integers(1, 120),
    first_freq=st.floats(0.01, 30000),
    bins_per_octave=st.floats(0.5, 100) | st.sampled_from([1, 12, 24, 36]),
    sample_rate=st.sampled_from([8000, 16000, 22050, 44100, 48000]),
)
def test_filter_i_is_where_it_was_asked_for_or_the_error_says_how_many_fit(
    bank, n_filters, first_freq, bins_per_octave, sample_rate
):
    def made(n: int) -> torch.nn.Module:
        octaves = {"scale": "log", "first_freq": first_freq, "bins_per_octave": bins_per_octave}
        return BANKS[bank](n, sample_rate=sample_rate, **octaves)

    wanted = [first_freq * 2 ** (i / bins_per_octave) for i in range(n_filters)]
    assume(all(abs(f / (sample_rate / 2) - 1) > 1e-6 for f in wanted))  # nearer, rounding decides
    fit = sum(f < sample_rate / 2 for f in wanted)
    if fit == n_filters:
        assert made(n_filters).centre_freqs().tolist() == pytest.approx(wanted, rel=3e-7)
    elif fit == 0:
        with pytest.raises(ValueError, match="first_freq: expected below half of the sample rate"):
            made(n_filters)
    else:
        with pytest.raises(ValueError, match=rf"n_filters: expected the highest filter .* Hz; {fit} filters fit"):
            made(n_filters)
        assert len(made(fit).centre_freqs()) == fit


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"first_freq": 33.0, "bins_per_octave": 12}, "first_freq: expected only with scale: log, got it with 'mel'"),
        ({"bins_per_octave": 12}, "bins_per_octave: expected only with scale: log"),
        ({"scale": "log", "first_freq": 33.0}, "first_freq: expected together with bins_per_octave"),
        ({"scale": "log", "first_freq": 33.0, "bins_per_octave": 12, "min_freq": 30}, "instead of min_freq, got both"),
        ({"scale": "log", "first_freq": 33.0, "bins_per_octave": 12, "max_freq": 99}, "instead of max_freq, got both"),
        ({"scale": "log", "first_freq": math.nan, "bins_per_octave": 12}, "first_freq: .* at least 0.001 Hz, got nan"),
        ({"scale": "log", "first_freq": 33.0, "bins_per_octave": 0}, "bins_per_octave: expected 0.1 to 10000, got 0"),
    ],
)
@pytest.mark.parametrize("bank", [hlfeat.EfficientLeaf, hlfeat.Leaf])
def test_arguments_that_contradict_each_other(bank, arguments, words):
    with pytest.raises(ValueError, match=words):
        bank(**arguments)


def test_filters_in_an_octave_go_with_min_freq_too():
    one = hlfeat.EfficientLeaf(23, scale="log", min_freq=110, bins_per_octave=12)
    other = hlfeat.EfficientLeaf(23, scale="log", min_freq=110, max_freq=440)
    torch.testing.assert_close(one.centre_freqs(), other.centre_freqs())


@pytest.fixture(scope="module")
def music():
    return hlfeat.build("music-cq").eval()


def test_music_starts_at_c1_with_a_band_a_semitone(music):
    assert music.frontend.centre_freqs().tolist() == pytest.approx([C1 * 2 ** (i / 12) for i in range(84)], rel=3e-7)
    assert music.frontend.hop == 512  # as librosa.cqt


@torch.no_grad()
def test_every_note_is_loudest_in_its_own_band(music):
    """By 7 dB at least; within a group of filters it is 10 dB. A window of 25 ms would leave 0.1 dB at C1."""
    leaf, t = music.frontend, torch.arange(22050, dtype=torch.float64) / 22050
    notes = torch.stack([torch.sin(2 * math.pi * C1 * 2 ** (i / 12) * t) for i in range(84)]).float()
    middle = leaf.num_frames(22050) // 2
    decibels = 10 * leaf.compute_bands(notes, None)[:, :, middle].log10()  # [note, band]
    own = decibels.diagonal().clone()
    others = decibels.fill_diagonal_(-math.inf).amax(1)
    assert (own - others).min() > 6.9
    assert (own - others)[:12].min() > 9.9


@pytest.mark.parametrize("name", ["music-cq", "bio-48k"])
def test_no_filter_is_shorter_than_its_neighbours_ask_for(name):
    """Bandwidths beyond what the pooling window allows would be clamped, and the filters overlap more than others."""
    bank = hlfeat.build(name).frontend.filterbank
    torch.testing.assert_close(bank.clamped()[1], bank.bandwidths, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "most"), [("music-cq", 51e6), ("bio-48k", 120e6), ("log-mel-48k", 16e6)])
def test_multiply_adds_of_a_second(name, most):
    assert hlfeat.build(name).frontend.multiply_adds() <= most


@pytest.mark.parametrize("name", ["bio-48k", "log-mel-48k"])
def test_bands_reach_to_24_khz(name):
    centres = hlfeat.build(name).frontend.centre_freqs()
    assert centres.max() < 24000 < centres[-1] + (centres[-1] - centres[-2]) * 1.1


def test_harmonics_of_music_are_whole_bands_of_a_log_axis_that_nobody_named():
    layers = [layer for layer in hlfeat.build("music-cq-harmonic").stack.layers if isinstance(layer, HarmonicLayer)]
    for layer in layers:
        positions = layer.conv.positions(84)
        octave = layer.conv.anchor * 2  # this harmonic is an octave above the band
        assert torch.equal(positions[octave - 1], torch.arange(84) + 12.0)
    assert len(layers) == 2
