"""What modules ask of a device: nothing in float64, which some devices do not have, and of log-mel few launches."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import hlfeat
from hlfeat.nn.frontends.gabor import GaborFilterbank
from tests.fake_device import FakeDevice

SAMPLES = 16000
EVERY_LAYER = [
    {"layer": "conv", "out_channels": 2, "kernel": [3, 3]},
    *({"layer": "norm", "kind": kind} for kind in ("batch", "layer", "instance")),
    *({"layer": "activation", "kind": kind} for kind in ("relu", "gelu", "softplus")),
    {"layer": "residual", "layers": [{"layer": "conv", "out_channels": 2, "kernel": [3, 3]}]},
    *({"layer": "pool", "kind": kind, "frames": 2} for kind in ("mean", "max")),
    {"layer": "projection", "features": 20},
]
CONFIGS = {
    **{name: name for name in hlfeat.config_names()},
    "spectrogram, every layer": {"frontend": {"kind": "spectrogram"}, "stack": EVERY_LAYER},
}


def made(name):
    """The extractor of a configuration, which no longer looks at its parameters' values: fake tensors have none."""
    extractor = hlfeat.build(CONFIGS[name])
    with torch.no_grad():
        extractor.eval()(torch.zeros(1, SAMPLES))  # makes the tables of harmonic convolutions
    for module in extractor.modules():
        if isinstance(module, GaborFilterbank):
            module.groups = partial(list, module.groups())
    extractor.follow_centre_freqs = lambda: None
    return extractor


@pytest.mark.parametrize("name", CONFIGS)
def test_no_parameter_or_buffer_is_in_float64(name):
    extractor = hlfeat.build(CONFIGS[name])
    tensors = [*extractor.named_parameters(), *extractor.named_buffers()]
    assert [key for key, x in tensors if x.dtype == torch.float64] == []


@pytest.mark.parametrize("frontend", [hlfeat.LogMel(), hlfeat.Spectrogram()], ids=lambda f: type(f).__name__)
def test_frequencies_of_fixed_bands_stay_on_the_host_and_exact(frontend):
    before = frontend.centre_freqs()
    assert before.shape == (frontend.n_bands,)
    for move in (lambda: frontend.half(), lambda: frontend.to("meta")):
        move()
        after = frontend.centre_freqs()
        assert (after.dtype, after.device.type) == (torch.float64, "cpu")
        assert torch.equal(after, before)


@pytest.mark.parametrize("name", ["eleaf-8g-opt", "leaf", "log-mel"])
def test_responses_are_computed_on_the_host(name):
    frontend = made(name).frontend
    with FakeDevice() as device:
        device.move(frontend)
        with device.counting() as counts, pytest.raises(RuntimeError, match="numpy"):  # fake tensors have no values
            frontend.responses()
    assert counts.to_host > 0
    assert not counts.float64


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_forward_pass_has_nothing_in_float64(name, with_lengths):
    with torch.no_grad():
        extractor = made(name)
        with FakeDevice() as device:
            extractor = device.move(extractor)
            x, lengths = device.empty(2, SAMPLES), device.lengths(2) if with_lengths else None
            with device.counting() as counts:
                y = extractor(x, lengths)
    assert y.dtype == torch.float32
    assert y.device.type == "cuda"
    assert counts.launches > 0
    assert not counts.float64


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step_has_nothing_in_float64(name, with_lengths):
    extractor = made(name).train()
    with FakeDevice("meta") as device:
        extractor = device.move(extractor)
        x, lengths = device.empty(2, SAMPLES, requires_grad=True), device.lengths(2) if with_lengths else None
        with device.counting() as counts:
            extractor(x, lengths).sum().backward()
    assert counts.launches > 0
    assert not counts.float64


@pytest.mark.parametrize(
    ("kind", "with_lengths", "most"),
    [("LogMel", False, 11), ("LogMel", True, 15), ("Spectrogram", False, 10), ("Spectrogram", True, 14)],
)
def test_launches_of_fixed_filters(kind, with_lengths, most):
    """One mask serves samples and frames; an extractor without a stack adds nothing."""
    frontend = getattr(hlfeat, kind)().eval()
    extractor = hlfeat.Extractor(frontend)
    with FakeDevice() as device, torch.no_grad():  # inference mode would hide what some operations are made of
        extractor = device.move(extractor)
        x, lengths = device.empty(32, 8 * 16000), device.lengths(32) if with_lengths else None
        with device.counting() as counts:
            extractor(x, lengths)
    assert 0 < counts.launches <= most, counts.operations
    assert (counts.to_device, counts.to_host, counts.waits) == (0, 0, 0)
