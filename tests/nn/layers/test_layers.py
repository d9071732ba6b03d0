"""Stacks: a clip must not see its neighbours through any layer; shapes and axes must be what the next layer is told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import hlfeat
from hlfeat.config.loading import config_names
from hlfeat.errors import ConfigError
from hlfeat.nn.axes import CentreAxis, LinearAxis, LogAxis
from hlfeat.nn.layers.conv import ConvLayer
from hlfeat.nn.layers.norm import BatchNorm, InstanceNorm
from hlfeat.nn.layers.pooling import Pool

H = {"layer": "harmonic", "out_channels": 4, "kernel": [3, 3]}
STACKS = {
    "harmonic": [H],
    "anchors": [{**H, "anchors": [1, 2, 3]}],
    "groups, stride, dilation": [{**H, "groups": 2, "stride": [2, 2], "dilation": 2}],
    "own log axis": [{**H, "axis": "log", "bins_per_octave": 5}],
    "own linear axis": [{**H, "axis": "linear"}],
    "conv": [{"layer": "conv", "out_channels": 3, "kernel": [3, 5], "stride": [2, 3], "dilation": [1, 2]}],
    "batch norm": [H, {"layer": "norm", "kind": "batch"}],
    "layer norm": [H, {"layer": "norm", "kind": "layer"}],
    "instance norm": [H, {"layer": "norm", "kind": "instance"}],
    **{
        kind: [{"layer": "activation", "kind": kind}]
        for kind in ("relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "softplus")
    },
    "mean pool": [H, {"layer": "pool", "bands": 2, "frames": 3}],
    "max pool": [{"layer": "pool", "kind": "max", "bands": 2, "frames": 2}],
    "projection": [H, {"layer": "projection", "features": 5}],
    "residual": [{"layer": "residual", "layers": [{**H, "out_channels": 2}, {"layer": "activation"}]}],
    "residual that strides": [{"layer": "residual", "layers": [{**H, "stride": [2, 2]}, H]}],
    "pool between": [H, {"layer": "pool", "bands": 2, "frames": 2}, H],
}


def built(stack: list[dict], **settings) -> hlfeat.Extractor:
    frontend = {"kind": "eleaf", "n_filters": 17, "num_groups": 4, "conv_win_factor": 6, "stride_factor": 16}
    return hlfeat.build({"frontend": frontend, "stack": stack, **settings}).eval()


def disturb(module: torch.nn.Module) -> None:
    """Biases, scales and running statistics away from the zeros and ones that hide leaks."""
    torch.manual_seed(1)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor + 0.3 * torch.rand_like(tensor) + 0.1)


@pytest.mark.parametrize("name", STACKS)
@example(lengths=[212, 1], seed=0)
@given(lengths=st.lists(st.integers(1, 5000), min_size=2, max_size=4), seed=st.integers(0, 2**31))
def test_a_clip_does_not_depend_on_its_batch(name, lengths, seed):
    torch.manual_seed(seed)
    extractor = (
        built([*STACKS[name], {"layer": "conv", "out_channels": 2, "kernel": [3, 3]}])
        if (name != "projection")
        else built(STACKS[name])
    )
    disturb(extractor.stack)
    x = torch.randn(len(lengths), max(lengths))
    tolerance = 1e-5
    if name == "instance norm":  # divides a clip of few frames by next to nothing: rounding, too, becomes large
        extractor, x, tolerance = extractor.double(), x.double(), 1e-9
    with torch.no_grad():
        together = extractor(x, torch.tensor(lengths))
        assert together.shape[1:3] == (extractor.n_channels, extractor.n_bands)
        frames = extractor.num_frames(torch.tensor(lengths)).tolist()
        for b, n in enumerate(lengths):
            alone = extractor(x[b : b + 1, :n])[0]
            assert alone.shape[-1] == frames[b]
            assert torch.all(together[b, ..., frames[b] :] == 0)
            assert (together[b, ..., : frames[b]] - alone).abs().max() <= tolerance * alone.abs().max()


@pytest.mark.parametrize("name", config_names())
def test_named_configurations_keep_clips_apart(name):
    """Promise 1 for what is shipped: alone and among 50 others, at several batch sizes."""
    torch.manual_seed(0)
    extractor = hlfeat.build(name).eval()
    disturb(extractor.stack)
    lengths = torch.randint(1, 12000, (51,))
    x = torch.randn(51, 12000) * 0.1
    with torch.no_grad():
        alone = [extractor(x[b : b + 1, :n])[0] for b, n in enumerate(lengths)]
        for size in (2, 7, 51):
            for start in range(0, 51, size):
                part = slice(start, start + size)
                together = extractor(x[part], lengths[part])
                for y, want in zip(together, alone[part], strict=True):
                    assert (y[..., : want.shape[-1]] - want).abs().max() <= 1e-5 * want.abs().max()


def test_batch_norm_of_a_stack_learns_from_existing_frames():
    torch.manual_seed(0)
    x, frames = torch.randn(3, 2, 4, 6), torch.tensor([6, 2, 4])
    ours, plain = BatchNorm(2, True), torch.nn.BatchNorm1d(2)
    ours(x, frames)
    plain(torch.cat([x[b, :, :, :n].flatten(1) for b, n in enumerate([6, 2, 4])], 1)[None])
    torch.testing.assert_close(ours.bn.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.bn.running_var, plain.running_var)


def test_instance_norm_is_that_of_torch():
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(InstanceNorm(3, True)(x)[0], torch.nn.InstanceNorm2d(3)(x))


@pytest.mark.parametrize("kind", ["mean", "max"])
def test_pooling_counts_a_last_partial_window(kind):
    x = torch.arange(1.0, 6.0).view(1, 1, 1, 5).expand(1, 1, 2, 5)
    y, frames = Pool(kind, 2, 2)(x, torch.tensor([5]))
    assert frames.tolist() == [3]
    assert y.flatten().tolist() == ([1.5, 3.5, 5.0] if kind == "mean" else [2.0, 4.0, 5.0])


def test_axes_follow_strides_and_pools():
    centre = CentreAxis.of([100.0, 200.0, 400.0, 800.0])
    assert Pool("mean", 2, 1).set_axis(centre) == CentreAxis.of([150.0, 600.0])
    assert Pool("mean", 2, 1).set_axis(LogAxis(12, 2)) == LogAxis(6, 2)
    conv = ConvLayer(torch.nn.Conv2d(1, 1, 1), (2, 1))
    assert conv.set_axis(centre) == CentreAxis.of([100.0, 400.0])
    assert conv.set_axis(LinearAxis()) == LinearAxis()
    with pytest.raises(ConfigError, match=r"pool\.bands = 1 on a linear axis"):
        Pool("mean", 2, 1).set_axis(LinearAxis())


def test_harmonics_follow_filters_that_are_trained():
    extractor = built([H])
    conv = extractor.stack.layers[0].conv
    before = conv.axis
    x = torch.randn(1, 3000)
    extractor(x)
    assert conv.axis == before
    with torch.no_grad():
        extractor.frontend.filterbank.center_freqs[:] *= 0.5
    extractor(x)
    assert conv.axis.freqs[3] == pytest.approx(before.freqs[3] / 2)
    with torch.no_grad():
        extractor.frontend.filterbank.center_freqs[4] = 0.0
    extractor(x)
    assert conv.axis.order[0] == 4


def test_gradients_reach_frontend_and_stack():
    extractor = hlfeat.build("eleaf-harmonic").train()
    extractor(torch.randn(2, 4000), torch.tensor([4000, 1500])).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in extractor.parameters())


def test_weights_are_drawn_from_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (built([H], seed=s).stack.state_dict()["layers.0.conv.weight"] for s in (0, 0, 1))
    assert torch.rand(1) == expected
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        ([{**H, "groups": 3}], r"stack\.0 \(harmonic\): .*multiples of groups"),
        ([{"layer": "conv", "out_channels": 3, "groups": 2}], r"stack\.0 \(conv\): groups: expected a divisor"),
        ([{"layer": "pool", "bands": 99}], r"stack\.0 \(pool\): bands: expected at most the 17"),
        ([{"layer": "projection", "features": 3}, H], r"stack\.1 \(harmonic\): .*projection came before"),
        ([{**H, "axis": "log"}], r"stack\.0 \(harmonic\): bins_per_octave"),
        (
            [{"layer": "residual", "layers": [{"layer": "pool", "frames": 2}]}],
            r"stack\.0 \(residual\): .*not pools",
        ),
        ([{"layer": "residual", "layers": [{**H, "groups": 5}]}], r"stack\.0\.layers\.0 \(harmonic\)"),
    ],
)
def test_impossible_stacks(stack, words):
    with pytest.raises(ConfigError, match=words):
        built(stack)
