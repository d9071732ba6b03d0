"""Parameter groups: every parameter once, and filters that move as other parameters do."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import hlfeat

NAMES = ["center_freqs", "bandwidths", "pooling_widths"]


class Net(nn.Module):
    """An extractor deep inside, with layers around it."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"ext": extractor})
        self.head = nn.Sequential(nn.BatchNorm1d(80), nn.Linear(80, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body["ext"](x)[:, 0].mean(-1))


def taken(groups: list[dict]) -> list[int]:
    return [id(p) for group in groups for p in group["params"]]


def rates(groups: list[dict]) -> dict[str, float]:
    """Rates of the filters' parameters, by their last names."""
    return {g["name"].split(".")[-1]: g["lr"] for g in groups if g["name"] not in ("weights", "others")}


@pytest.mark.parametrize("name", hlfeat.config_names())
def test_each_parameter_is_in_one_group(name):
    model = Net(hlfeat.build(name))
    groups = hlfeat.parameter_groups(model, 1e-3, weight_decay=0.1)
    assert sorted(taken(groups)) == sorted(id(p) for p in model.parameters())
    assert all(group["params"] for group in groups)
    for group in groups:
        assert {p.dim() > 1 for p in group["params"]} == {group["name"] == "weights"}
        assert group["weight_decay"] == (0.1 if group["name"] == "weights" else 0.0)
    learned = hasattr(model.body["ext"].frontend, "filterbank")
    prefix = "body.ext.frontend.filterbank."
    assert [g["name"] for g in groups] == ["weights", "others", *[prefix + n for n in NAMES if learned]]


def test_rates_follow_the_filters_units():
    leaf = hlfeat.EfficientLeaf(41, 8)  # an odd number, whose median is one of them
    r = rates(hlfeat.parameter_groups(leaf, 0.01))
    bandwidth = sorted(leaf.filterbank.bandwidths.tolist())[20]
    assert r["bandwidths"] == pytest.approx(0.01 * bandwidth)
    assert r["pooling_widths"] == pytest.approx(0.01 * 0.4)
    # Moved by the unit's half, the amplitude of a Gaussian of this bandwidth is at half of its maximum.
    half = 0.5 * r["center_freqs"] / 0.01
    assert math.exp(-((half * bandwidth) ** 2) / 2) == pytest.approx(0.5)


def test_rates_do_not_depend_on_the_order_of_filters_and_need_no_neighbour():
    leaf = hlfeat.EfficientLeaf(40, 8)
    want = rates(hlfeat.parameter_groups(leaf, 1e-3))
    with torch.no_grad():
        for p in leaf.filterbank.parameters():
            p.copy_(p.flip(0))
        leaf.filterbank.center_freqs[3] = leaf.filterbank.center_freqs[4]
    assert rates(hlfeat.parameter_groups(leaf, 1e-3)) == want
    assert all(rate > 0 for rate in rates(hlfeat.parameter_groups(hlfeat.EfficientLeaf(1, 1), 1e-3)).values())


def test_wrapped_models_have_the_same_groups():
    model = Net(hlfeat.build("eleaf-8g-opt"))
    want = hlfeat.parameter_groups(model, 1e-3)
    wrapped = nn.ModuleDict({"module": model})  # what DistributedDataParallel calls it
    for other in (wrapped, torch.compile(model)):
        groups = hlfeat.parameter_groups(other, 1e-3)
        assert taken(groups) == taken(want)
        assert rates(groups) == rates(want)


def test_shared_parameters_come_once():
    leaf, linear = hlfeat.EfficientLeaf(40, 8), nn.Linear(4, 4)
    other = hlfeat.EfficientLeaf(40, 8)
    other.filterbank.bandwidths = leaf.filterbank.bandwidths
    linear_too = nn.Linear(4, 4)
    linear_too.weight = linear.weight
    model = nn.ModuleList([leaf, leaf, other, linear, linear_too])
    groups = hlfeat.parameter_groups(model, 1e-3)
    assert sorted(taken(groups)) == sorted(id(p) for p in model.parameters())


def test_frozen_parameters_are_left_out():
    model = Net(hlfeat.build("eleaf-8g-opt"))
    frozen = [model.body["ext"].frontend.filterbank.center_freqs, model.head[1].weight]
    for p in frozen:
        p.requires_grad_(False)
    groups = hlfeat.parameter_groups(model, 1e-3)
    assert sorted(taken(groups)) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert [g["name"].split(".")[-1] for g in groups] == ["others", *NAMES[1:]]
    model.requires_grad_(False)
    assert hlfeat.parameter_groups(model, 1e-3) == []


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_optimizers_take_them(kind):
    model = Net(hlfeat.build("eleaf-pcen"))
    before = copy.deepcopy(model.state_dict())
    optimizer = kind(hlfeat.parameter_groups(model, 1e-4, weight_decay=0.01))
    model(torch.randn(2, 3200)).square().mean().backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for name in ("body.ext.frontend.filterbank.center_freqs", "head.1.weight"):
        assert not torch.equal(before[name], model.state_dict()[name])
    again = kind(hlfeat.parameter_groups(model, 1e-4))
    again.load_state_dict(optimizer.state_dict())
    assert [g["name"] for g in again.param_groups] == [g["name"] for g in optimizer.param_groups]


def changes(model: nn.Module, groups: list[dict], steps: int) -> dict[str, float]:
    """How far steps of Adam move a filterbank and a linear layer: the median of |change| / size, of each parameter.

    The size of a centre frequency is its filter's width, that of the layer's weights their root mean square.
    """
    bank, weight = model.body["ext"].frontend.filterbank, model.head[1].weight
    start = {n: getattr(bank, n).detach().clone() for n in NAMES}
    first = weight.detach().clone()
    optimizer = torch.optim.Adam(groups)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3200, generator=generator)).logsumexp(-1).sum().backward()
        optimizer.step()
    moved = {n: (getattr(bank, n).detach() - p).abs() for n, p in start.items()}
    size = {**start, "center_freqs": 2 * math.sqrt(2 * math.log(2)) / start["bandwidths"]}
    result = {n: float((moved[n] / size[n]).median()) for n in NAMES}
    return {**result, "weight": float((weight.detach() - first).abs().median() / first.square().mean().sqrt())}


def test_filters_move_as_far_as_weights():
    """After 10 steps at 0.003 all have moved by a few per cent of their size; with one rate for all they do not."""

    def model() -> Net:
        torch.manual_seed(0)
        return Net(hlfeat.build("eleaf-8g-opt"))

    ours = (net := model(), hlfeat.parameter_groups(net, 3e-3))
    moved = changes(*ours, steps=10)
    for name in NAMES:
        # An Adam step is the rate, and less where gradients change their sign; weights here are of size 1 / 16.
        assert 0.003 < moved[name] < 0.06, moved
        assert moved["weight"] / 60 < moved[name] < moved["weight"], moved
    plain = (net := model(), [{"params": list(net.parameters()), "lr": 3e-3}])
    moved = changes(*plain, steps=10)
    assert moved["bandwidths"] < 0.001, moved
    assert moved["center_freqs"] > 0.06, moved


def test_filters_find_others():
    """A bank learns the energies of another whose filters are moved and widened; one rate for all gets half as far."""

    def bank() -> nn.Module:
        return hlfeat.EfficientLeaf(20, 4, conv_win_factor=6, stride_factor=16).filterbank

    torch.manual_seed(0)
    target = bank()
    with torch.no_grad():
        target.center_freqs += 0.4 * torch.randn(20) / target.bandwidths
        target.bandwidths *= torch.exp(0.2 * torch.randn(20))

    def error_after(groups, student, steps=60):
        optimizer = torch.optim.Adam(groups)
        generator = torch.Generator().manual_seed(0)
        for _ in range(steps):
            x = torch.randn(4, 3200, generator=generator)
            loss = ((student(x) + 1e-5).log() - (target(x).detach() + 1e-5).log()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    student = bank()
    ours = error_after(hlfeat.parameter_groups(student, 5e-3), student)
    student = bank()
    plain = error_after([{"params": list(student.parameters()), "lr": 5e-3}], student)
    assert ours < 0.5 * plain, (ours, plain)


@pytest.mark.parametrize(
    "arguments", [{"lr": -1.0}, {"lr": math.nan}, {"lr": 1.0, "weight_decay": -0.1}, {"lr": math.inf}]
)
def test_impossible_rates_are_errors(arguments):
    with pytest.raises(ValueError, match="expected a finite number from 0"):
        hlfeat.parameter_groups(nn.Linear(1, 1), **arguments)


def test_nan_filters_are_an_error():
    model = Net(hlfeat.build("eleaf-8g-opt"))
    with torch.no_grad():
        model.body["ext"].frontend.filterbank.bandwidths[2] = math.nan
    with pytest.raises(ValueError, match=r"^body\.ext\.frontend\.filterbank: expected finite bandwidths"):
        hlfeat.parameter_groups(model, 1e-3)
