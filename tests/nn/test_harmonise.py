"""A network's convolutions made harmonic: which, on which axes, and that the network trains."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hlfeat
from hlfeat.nn.harmonic.axis_conv import AxisHarmonicConv2d
from tests.nn.unet import UNet

LOG = hlfeat.LogAxis(12, 2.0)
KEPT = ["first", "middle", "down", "deep", "joined", "last"]


def test_axes_follow_pooling_and_strides():
    torch.manual_seed(0)
    net, x = UNet(), torch.randn(2, 1, 48, 16)
    before, shapes = net(x), {name: part.weight.shape for name, part in net.named_modules() if hasattr(part, "weight")}
    replaced = hlfeat.harmonise(net, LOG, anchor=2)
    assert list(replaced) == KEPT  # not the convolution of one row
    assert all(type(conv) is nn.Conv2d for conv in replaced.values())
    assert type(net.mix) is nn.Conv2d
    assert net(x).shape == before.shape
    axes = {name: net.get_submodule(name).axis for name in KEPT}
    assert axes == {
        "first": LOG, "middle": LOG.pooled(2), "down": LOG.pooled(2), "deep": LOG.pooled(2).every(2),
        "joined": LOG.pooled(2), "last": LOG,
    }  # fmt: skip
    for name in KEPT:
        new, old = net.get_submodule(name), replaced[name]
        assert new.anchor == 2
        assert new.weight.shape == shapes[name]
        assert (new.stride, new.padding_mode, new.bias is None) == (old.stride, old.padding_mode, old.bias is None)
    assert not net._forward_hooks  # what followed the rows is gone
    assert not net._forward_pre_hooks
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_linear_and_centre_axes_follow_too():
    freqs = [40.0 * 1.06**i for i in range(48)]
    for axis in (hlfeat.LinearAxis(), hlfeat.CentreAxis.of(freqs)):
        net = UNet()
        hlfeat.harmonise(net, axis)
        net(torch.randn(1, 1, 48, 8))
        assert net.middle.axis == axis.pooled(2)
        assert net.deep.axis == axis.pooled(2).every(2)


def test_a_harmonised_network_trains():
    """The task: where is the fundamental of three harmonics? Only the layers' axes tell."""
    torch.manual_seed(0)
    net = UNet()
    hlfeat.harmonise(net, LOG)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        target = torch.randint(0, 20, (16,))
        rows = torch.stack([target, target + 12, target + 19])
        x = torch.zeros(16, 1, 48, 8)
        x[torch.arange(16), 0, rows] = 1.0
        wanted = torch.zeros_like(x)
        wanted[torch.arange(16), 0, target] = 1.0
        loss = F.binary_cross_entropy_with_logits(net(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.grad is not None for p in net.parameters())


def test_where_chooses():
    net = UNet()
    assert list(hlfeat.harmonise(net, LOG, where=lambda name, conv: name in ("first", "last"))) == ["first", "last"]
    assert type(net.middle) is nn.Conv2d
    net(torch.randn(1, 1, 48, 8))
    assert net.last.axis == LOG


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_before_the_first_forward_pass(again):
    net = UNet()
    hlfeat.harmonise(net, LOG)
    other, x = again(net), torch.randn(1, 1, 48, 8)
    assert torch.equal(other(x), net(x))
    assert other.deep.axis == net.deep.axis == LOG.pooled(2).every(2)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in other.modules())
    other.load_state_dict(net.state_dict())


class PoolsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.max_pool2d(self.a(x), 2))


def test_rows_that_no_module_pooled():
    net, x = PoolsItself(), torch.randn(1, 1, 48, 8)
    hlfeat.harmonise(net, LOG)
    with pytest.raises(ValueError, match=r"b: the axis of its 24 rows is not known, .* give axes=\{24: axis\.pooled"):
        net(x)
    net = PoolsItself()
    hlfeat.harmonise(net, LOG, axes={24: LOG.pooled(2)})
    net(x)
    assert net.b.axis == LOG.pooled(2)


def test_one_convolution_in_two_places_stays_one():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    net = nn.Sequential(conv, nn.ReLU(), conv)
    assert list(hlfeat.harmonise(net, LOG)) == ["0", "2"]
    assert net[0] is net[2]
    assert isinstance(net[0], AxisHarmonicConv2d)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Conv2d(1, 1, 3, padding=1), "got a convolution itself"),
        (nn.Sequential(nn.Linear(2, 2)), "found none"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), "found none"),
        (nn.Sequential(nn.Conv2d(1, 1, 5)), r"0: .* keeps the number of rows, .* padding=\(2, \.\.\.\)"),
    ],
)
def test_what_cannot_be_replaced(net, words):
    with pytest.raises(ValueError, match=words):
        hlfeat.harmonise(net, LOG)
