"""Margins: as wide as modules look and no wider, in batches, in training, and without waiting for a device."""

from __future__ import annotations

import pytest
import torch

import hlfeat
from hlfeat.audio.edges import reflect
from hlfeat.nn.margins import features_within, inside, margin_of
from tests.fake_device import FakeDevice
from tests.nn.test_devices import CONFIGS, made

LOG = {"n_filters": 8, "num_groups": 2, "compression": "relative-log"}
LAYERS = {
    "none": [],
    "conv": [{"layer": "conv", "out_channels": 2, "kernel": [1, 5], "dilation": [1, 2]}],
    "strided": [{"layer": "conv", "out_channels": 2, "kernel": [1, 3], "stride": [1, 2]}] * 2,
    "pools": [{"layer": "pool", "kind": "mean", "frames": 3}, {"layer": "pool", "kind": "mean", "frames": 2}],
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_margin_is_where_a_sample_begins_to_count(name):
    """By the gradients of the first and the last frame of a clip, whatever its last group of frames lacks."""
    extractor = hlfeat.build({"frontend": LOG, "stack": LAYERS[name]}).double().eval()
    margin, grid = margin_of(extractor)
    assert margin % grid == 0
    assert grid == extractor.hop
    seen = 0
    for length in range(20 * grid + 1, 21 * grid + 1, extractor.frontend.hop):
        more = 3 * margin
        x = torch.randn(1, more + length + more, dtype=torch.float64, requires_grad=True)
        y = features_within(extractor, x, inside(extractor, more, length))
        assert y.shape[-1] == extractor.num_frames(length)
        (gradient,) = torch.autograd.grad(y.abs().sum(), x)
        first, last = gradient[0].nonzero()[[0, -1], 0].tolist()
        seen = max(seen, more - first, last + 1 - more - length)
    assert margin - grid < seen <= margin


@pytest.mark.parametrize("name", [*LAYERS, "instance"])
def test_in_a_batch_as_alone_and_nothing_past_the_end(name):
    stack = [{"layer": "norm", "kind": "instance"}] if name == "instance" else LAYERS[name]
    extractor = hlfeat.build({"frontend": {"n_filters": 8, "num_groups": 2}, "stack": stack}).eval()
    margin, lengths = margin_of(extractor).samples, torch.tensor([4000, 1, 2777, 160])
    clips = torch.randn(4, 4000) * (torch.arange(4000) < lengths[:, None])
    x = reflect(clips, margin, lengths)
    y = features_within(extractor, x, inside(extractor, margin, 4000, lengths), lengths + 2 * margin)
    for clip, length, got in zip(clips, lengths.tolist(), y, strict=True):
        alone = features_within(extractor, reflect(clip[None, :length], margin), inside(extractor, margin, length))[0]
        n = extractor.num_frames(length)
        torch.testing.assert_close(got[..., :n], alone, rtol=1e-4, atol=1e-4)
        assert not got[..., n:].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_device_is_not_waited_for(name):
    with torch.no_grad():
        extractor = made(name)
        margin = margin_of(extractor).samples
        with FakeDevice() as device:
            extractor = device.move(extractor)
            x, lengths = device.empty(2, 16000), device.lengths(2)
            extractor(x, lengths)  # makes the filters
            with device.counting() as plain:
                extractor(x, lengths)
            with device.counting() as counts:
                y = reflect(x, margin, lengths)
                clip = inside(extractor, margin, 16000, lengths)
                features_within(extractor, y, clip, lengths + 2 * margin)
    assert counts.waits == counts.to_host == 0
    assert not counts.float64
    assert counts.launches <= plain.launches + 54  # of a batch; most of them make the mirror image
