"""Clips in pieces equal clips in one piece."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlfeat
from hlfeat.audio.resample import Resampler
from hlfeat.config.loading import config_from_dict
from hlfeat.extraction.options import Limits
from hlfeat.extraction.streaming import Step, Steps, apply_in_windows, stream_features
from hlfeat.nn.frontends import spill
from hlfeat.nn.frontends.spill import SpillFile

FEW = {"n_filters": 12, "num_groups": 3, "conv_win_factor": 6, "stride_factor": 16}
STACK = [
    {"layer": "harmonic", "out_channels": 3, "kernel": [3, 5], "anchor": 1},
    {"layer": "norm", "kind": "batch"},
    {"layer": "activation", "kind": "sigmoid"},
    {"layer": "conv", "out_channels": 2, "kernel": [3, 3], "stride": [1, 2], "dilation": [1, 3]},
    {"layer": "residual", "layers": [{"layer": "conv", "out_channels": 4, "kernel": [1, 7], "stride": [2, 3]}]},
    {"layer": "pool", "kind": "mean", "frames": 3, "bands": 1},
    {"layer": "projection", "features": 5},
]
CONFIGS = {
    "logtbn": {"frontend": FEW},
    "pcen": {"frontend": {**FEW, "compression": "pcen"}},
    "log": {"frontend": {**FEW, "compression": {"kind": "logtbn", "median_filter": False, "append_filtered": False}}},
    "log-mel": {"frontend": {"kind": "log-mel", "n_filters": 12}},
    # a logarithm of next to nothing would show rounding alone
    "spectrogram": {"frontend": {"kind": "spectrogram", "window_len": 20, "floor": 1e-2}},
    "stack": {"frontend": FEW, "stack": STACK},
    "instance": {"frontend": FEW, "stack": [{"layer": "norm", "kind": "instance"}, *STACK]},
}


def in_pieces(extractor, x, rate, cuts, tmp_path):
    bounds = [0, *sorted(cuts), x.shape[1]]
    pieces = [x[:, a:b] for a, b in pairwise(bounds) if b > a]
    with torch.inference_mode():
        steps = Steps(extractor, Resampler(extractor.sample_rate))
        spill, limits = lambda: SpillFile(tmp_path), Limits(window_samples=4000, window_frames=50)
        return torch.cat(list(stream_features(steps, pieces, rate, map, spill, limits)))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rate", [16000, 11025])
def test_pieces_equal_the_whole(name, rate, tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "MEDIAN_BYTES", 5000)
    extractor = hlfeat.build(config_from_dict(CONFIGS[name])).eval()
    generator = torch.Generator().manual_seed(1)
    for n in (1, 159, 4000, 4001, 40_000, 53_337):
        x = torch.randn(1, n, generator=generator) * torch.linspace(0, 1, n)
        cuts = torch.randint(0, n, (5,), generator=generator).tolist()
        with torch.inference_mode():
            want = extractor(Resampler(16000)(x, rate))[0].permute(2, 0, 1)
        got = in_pieces(extractor, x, rate, cuts, tmp_path)
        assert got.shape == want.shape
        assert (got - want).abs().max() <= 2e-5 * want.abs().max()
    assert list(tmp_path.iterdir()) == []


@given(
    length=st.integers(1, 200),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    kernel=st.integers(0, 9),
    unit=st.integers(1, 7),
    units=st.integers(1, 9),
)
def test_windows_of_a_convolution(length, cuts, kernel, unit, units):
    """A strided convolution with `kernel` taps on either side, against the whole of it at once."""
    x = torch.arange(1.0, length + 1)[None, None]
    weight = torch.rand(1, 1, 2 * kernel + 1, generator=torch.Generator().manual_seed(kernel))

    def apply(x):
        return torch.nn.functional.conv1d(x, weight, stride=unit, padding=kernel)

    bounds = [0, *sorted(min(c, length) for c in cuts), length]
    pieces = [x[..., a:b] for a, b in pairwise(bounds)]
    found = list(
        apply_in_windows(pieces, Step("conv", apply), map, unit=unit, outputs=1, receptive_field=kernel, units=units)
    )
    torch.testing.assert_close(torch.cat(found, -1), apply(x))
    assert all(y.shape[-1] <= units for y in found)


def test_the_spool_is_gone_when_it_is_closed_and_when_it_is_not(tmp_path):
    spool = SpillFile(tmp_path)
    spool.append(torch.zeros(1, 2, 3))
    assert list(tmp_path.iterdir()) == []


def test_medians_of_a_spool(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(spill, "MEDIAN_BYTES", 1000)
    for total in (1, 2, 99, 100):
        x = rng.standard_normal((7, total)).astype(np.float32)
        with SpillFile(tmp_path) as spool:
            for part in np.array_split(x, min(total, 3), axis=1):
                spool.append(torch.from_numpy(part)[None])
            assert torch.equal(spool.median()[0, :, 0], torch.from_numpy(x).median(1).values)
            assert torch.equal(torch.cat(list(spool), -1)[0], torch.from_numpy(x))
