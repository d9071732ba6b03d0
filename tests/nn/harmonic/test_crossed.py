"""Centre frequencies in any order, as training leaves them: harmonics are found among the sorted ones."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlfeat
from hlfeat.nn.axes import CentreAxis
from hlfeat.nn.harmonic import chunks
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from hlfeat.nn.harmonic.plan import Plan


def by_loops(x: np.ndarray, weight: np.ndarray, freqs: np.ndarray, anchor: int) -> np.ndarray:
    """The formula in float64, on the sorted frequencies with their rows: x [C, F, T], weight [O, C, K, 1]."""
    order = np.argsort(freqs, kind="stable")
    c, rows = freqs[order], x[:, order]
    y = np.zeros((len(weight), len(freqs), x.shape[2]))
    for f, freq in enumerate(freqs):
        for k in range(weight.shape[2]):
            wanted = freq * (k + 1) / anchor
            if k + 1 == anchor:
                read = x[:, f]
            elif c[0] <= wanted <= c[-1]:
                at = np.interp(wanted, c, np.arange(len(c)))
                low = int(at)
                high = min(low + 1, len(c) - 1)
                read = rows[:, low] * (1 - (at - low)) + rows[:, high] * (at - low)
            else:
                continue
            y[:, f] += weight[:, :, k, 0] @ read
    return y


# halves: their multiples are exact, and no harmonic lies within rounding of an end
frequencies = st.lists(st.integers(2, 2000).map(lambda n: n / 2), min_size=1, max_size=14, unique=True)


@given(freqs=frequencies, harmonics=st.integers(1, 5), anchor=st.integers(1, 6), seed=st.integers(0, 999))
def test_frequencies_in_any_order_equal_loops(freqs, harmonics, anchor, seed):
    torch.manual_seed(seed)
    conv = hlfeat.HarmonicConv2d(2, 3, (harmonics, 1), bias=False, anchor=anchor, centre_freqs=freqs).double()
    x = torch.randn(1, 2, len(freqs), 3, dtype=torch.float64)
    expected = by_loops(x[0].numpy(), conv.weight.detach().numpy(), np.array(freqs), anchor)
    np.testing.assert_allclose(conv(x)[0].detach().numpy(), expected, atol=1e-6 * max(1, np.abs(expected).max()))


@given(freqs=frequencies, seed=st.integers(0, 999), on_device=st.booleans())
def test_rows_may_be_permuted_with_their_frequencies(freqs, seed, on_device):
    """Whatever the tables: those of a CPU, and those of a GPU."""
    torch.manual_seed(seed)
    x, sorted_freqs = torch.randn(2, 2, len(freqs), 5, dtype=torch.float64), sorted(freqs)
    order = torch.randperm(len(freqs))
    conv = hlfeat.HarmonicConv2d(2, 3, (4, 3), padding=(0, 1), anchor=2, centre_freqs=sorted_freqs).double()
    there = copy.deepcopy(conv)
    there.set_axis(CentreAxis.of([sorted_freqs[i] for i in order]))
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "sizes_decide", lambda device: not on_device)
        for module, rows in ((conv, x), (there, x[:, :, order])):
            rows = rows.clone().requires_grad_()
            y = module(rows)
            cotangent = torch.linspace(-1, 1, y.shape[3], dtype=y.dtype).expand_as(y)
            results.append([y.detach(), *torch.autograd.grad(y, [rows, *module.parameters()], cotangent)])
    (y, gx, *gw), (y_there, gx_there, *gw_there) = results
    torch.testing.assert_close(y_there, y[:, :, order])
    torch.testing.assert_close(gx_there, gx[:, :, order])
    torch.testing.assert_close(gw_there, gw)


def test_positions_are_continuous_where_filters_cross():
    """Two filters that have crossed look alike there; nothing else changes by more than they have moved."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 4, dtype=torch.float64)
    x[:, :, 3] = x[:, :, 2]

    def output(step: float) -> torch.Tensor:
        freqs = [100.0, 200.0, 300.0 + step, 300.0 - step, 500.0, 640.0]
        torch.manual_seed(1)
        return hlfeat.HarmonicConv2d(1, 2, (3, 1), centre_freqs=freqs).double()(x)

    at = output(0.0)
    for step in (1e-6, -1e-6):
        assert (output(step) - at).abs().max() < 1e-6


def test_a_row_is_its_own_anchor_where_frequencies_are_equal():
    x = torch.arange(4.0).view(1, 1, 4, 1)
    conv = hlfeat.HarmonicConv2d(1, 1, 1, bias=False, centre_freqs=[200.0, 100.0, 200.0, 200.0])
    with torch.no_grad():
        conv.weight[:] = 1
    assert torch.equal(conv(x), x)


@pytest.mark.parametrize("freqs", [[100.0, float("nan")], [float("inf"), 1.0], [-1.0, 2.0], []])
def test_what_is_no_frequency_is_refused(freqs):
    with pytest.raises(hlfeat.AxisError, match="finite and not negative"):
        hlfeat.HarmonicConv2d(1, 1, 3, centre_freqs=freqs)


def test_gradients_at_a_crossing():
    conv = hlfeat.HarmonicConv2d(2, 3, (3, 2), centre_freqs=[100.0, 310.0, 200.0, 200.0, 600.0]).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, w, b: torch.func.functional_call(conv, {"weight": w, "bias": b}, x),
                     (x, conv.weight, conv.bias), fast_mode=True)  # fmt: skip


def test_plans_are_copied_with_their_order():
    axis = CentreAxis.of([300.0, 100.0, 200.0])
    plan = Plan(axis.positions(3, 2, 1), 3, axis.order)
    for again in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert torch.equal(again.lerp_rows, plan.lerp_rows)
        assert again.lerp_rows.unique().tolist() == [0, 1, 2]


def test_fused_kernels_read_the_same_rows(kernels):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    axis = CentreAxis.of([300.0, 100.0, 620.0, 200.0, 410.0])
    x, weight = torch.randn(2, 3, 5, 9), torch.randn(4, 3, 3, 3)
    results = []
    for fused in (False, True):
        there = [v.to(device).requires_grad_() for v in (x.clone(), weight.clone())]
        y = harmonic_conv2d(*there, None, Plan(axis.positions(5, 3, 1), 5, axis.order), padding=1, fused=fused)
        results.append([y, *torch.autograd.grad(y.square().sum(), there)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def test_compiled_and_exported_modules_follow():
    conv, x = hlfeat.HarmonicConv2d(2, 3, (3, 3), centre_freqs=[100.0, 310.0, 200.0, 205.0]), torch.randn(1, 2, 4, 6)
    with torch.no_grad():
        expected = conv(x)
        torch.testing.assert_close(torch.compile(conv, backend="aot_eager")(x), expected)
        torch.testing.assert_close(torch.export.export(conv, (x,)).module()(x), expected)


def test_training_that_makes_filters_cross():
    """Adam moves all by about as much; neighbours cross within some steps."""
    torch.manual_seed(0)
    model = hlfeat.build("eleaf-harmonic").train()
    with torch.no_grad():  # 0.1 Hz apart: so that few steps do
        freqs = model.frontend.filterbank.center_freqs
        freqs[1::2] = freqs[::2] + 4e-5
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    crossed = 0
    for _ in range(8):
        loss = (model(torch.randn(2, 3200)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        crossed += bool((model.frontend.centre_freqs().diff() <= 0).any())
    assert crossed
    assert all(torch.isfinite(p).all() for p in model.parameters())
    with torch.no_grad():
        model.frontend.filterbank.center_freqs[3] = torch.nan
    with pytest.raises(hlfeat.AxisError, match="finite"):
        model(torch.randn(1, 1600))


@pytest.mark.parametrize("name", ["eleaf-harmonic", "eleaf-harmonic-mixed"])
def test_an_extractor_whose_filters_have_crossed_is_exported_copied_and_loaded(name):
    model, x = hlfeat.build(name).eval(), torch.randn(2, 8000)
    with torch.no_grad():
        model.frontend.filterbank.center_freqs[10:14] = model.frontend.filterbank.center_freqs[10:14].flip(0)
        expected = model(x)
        again = hlfeat.build(name).eval()
        again.load_state_dict(model.state_dict())
        for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), expected)
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-4)
