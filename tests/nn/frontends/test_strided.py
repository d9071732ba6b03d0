"""The filterbank as other devices than a CPU compute it: what it gives on a CPU, and what a GPU would have to do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hlfeat
from hlfeat.nn.frontends import gabor
from hlfeat.nn.frontends.leaf import LearnableFrontend
from tests.fake_device import Counts, FakeDevice

FRONTENDS = {
    "8G-opt, 80": lambda: hlfeat.EfficientLeaf(80, 8, conv_win_factor=6, stride_factor=16),
    "defaults": lambda: hlfeat.EfficientLeaf(),
    "pcen": lambda: hlfeat.EfficientLeaf(compression="pcen"),
    "leaf": lambda: hlfeat.Leaf(),
}


@pytest.fixture
def convolutions(monkeypatch):
    monkeypatch.setattr(gabor, "products_pay", lambda device: False)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-300))


@given(
    filters=st.integers(1, 12),
    groups=st.integers(1, 4),
    factor=st.sampled_from([1.0, 4.0, 16.0]),
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=3),
    padded=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_energies_and_gradients_equal_those_of_products(filters, groups, factor, lengths, padded, seed):
    """In float64: both ways compute the same sums."""
    torch.manual_seed(seed)
    bank = hlfeat.EfficientLeaf(filters, min(groups, filters), stride_factor=factor).filterbank.double()
    with torch.no_grad():  # some parameters leave their ranges
        bank.center_freqs *= 0.5 + torch.rand(filters)
        bank.bandwidths *= 0.3 + 2 * torch.rand(filters)
        bank.pooling_widths.copy_(torch.rand(filters))
    x = torch.randn(len(lengths), max(lengths), dtype=torch.float64, requires_grad=True)
    ends = torch.tensor(lengths) if padded else None
    results = []
    for products in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gabor, "products_pay", lambda device, products=products: products)
            y = bank.train()(x, ends)
            weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
            gradients = torch.autograd.grad((y * weight).sum(), [x, *bank.parameters()])
            with torch.no_grad():
                kept = bank.eval()(x, ends)
        assert relative(kept, y.detach()) < 1e-12
        results.append([y.detach(), *gradients])
    for got, expected in zip(*reversed(results), strict=True):
        assert relative(got, expected) < 1e-9


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_gradients(convolutions, training):
    torch.manual_seed(0)
    frontend = hlfeat.EfficientLeaf(6, 2, stride_factor=4, compression="pcen").double().train(training)
    x = torch.randn(2, 700, dtype=torch.float64, requires_grad=True)
    groups = frontend.filterbank.groups()
    frontend.filterbank.groups = lambda: groups  # differences must not move the kernels' ends
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: frontend(x, torch.tensor([700, 333])), x, fast_mode=True)


def test_transforms_of_functions_see_the_operations(convolutions):
    bank = hlfeat.EfficientLeaf(6, 2, stride_factor=4).filterbank.eval()
    x = torch.randn(3, 1500)
    with torch.no_grad():
        expected = bank(x)
        each = torch.func.vmap(lambda clip: bank(clip[None])[0])(x)
    torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)
    values, tangents = torch.func.jvp(lambda x: bank(x).log1p(), (x,), (x,))
    torch.testing.assert_close(values.detach(), expected.log1p(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tangents.detach(), 2 * expected / (1 + expected), rtol=1e-4, atol=1e-5)


def count(name: str, training: bool, batch: int = 32, samples: int = 128_000) -> Counts:
    """What a call with kept filters, or a training step, asks of a device."""
    frontend: LearnableFrontend = FRONTENDS[name]().train(training)
    groups = frontend.filterbank.groups()
    frontend.filterbank.groups = lambda: groups  # fake parameters have no values
    with FakeDevice("meta" if training else "cuda") as device, torch.set_grad_enabled(training):
        device.move(frontend)
        x, lengths = device.empty(batch, samples), device.lengths(batch)
        if not training:
            frontend(x, lengths)
        with device.counting() as counts:
            y = frontend(x, lengths)
            if training:
                torch.autograd.grad(y.sum(), list(frontend.parameters()))
    return counts


# Launches and GB in eval mode, launches of a training step; of 32 clips of 8 s. The first row is what was asked for.
BUDGETS = {
    "8G-opt, 80": (120, 0.9, 700),
    "defaults": (70, 4.0, 330),
    "pcen": (100, 4.0, 420),
    "leaf": (80, 8.3, 300),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_of_a_call(name):
    launches, gigabytes, _ = BUDGETS[name]
    counts = count(name, training=False)
    assert counts.launches <= launches, counts.operations
    assert counts.bytes <= gigabytes * 1e9, counts.bytes_of
    assert (counts.to_device, counts.to_host, counts.waits) == (0, 0, 0)
    assert not counts.float64


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_of_a_training_step(name):
    counts = count(name, training=True)
    assert counts.launches <= BUDGETS[name][2], counts.operations
    assert (counts.to_device, counts.to_host, counts.waits) == (0, 0, 0)
    assert not counts.float64


@pytest.mark.parametrize("training", [True, False])
def test_parameters_that_have_changed_are_waited_for_once(training):
    """Kernel sizes follow from the values of two parameters, in one copy to the host."""
    bank = hlfeat.EfficientLeaf(8, 2).filterbank.train(training)
    plan, waits = bank.groups(), []
    with FakeDevice("cuda") as device, pytest.MonkeyPatch.context() as patch:

        def planned(*arguments):
            with device.counting() as counts:
                torch.stack(list(arguments[1:3])).cpu()
            waits.append(counts.waits)
            return plan

        patch.setattr(gabor.Grouping, "plan", planned)
        device.move(bank)
        x = device.empty(2, 4000)
        with torch.no_grad(), device.counting() as counts:
            for _ in range(3):
                bank(x)
                assert len(waits) == 1
            bank.center_freqs.add_(0.01)
            bank(x)
    assert waits == [1, 1]
    assert counts.waits == 2
