"""torch.compile of networks with harmonic convolutions: one graph, compiled once, which computes what eager does."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

import hlfeat
from hlfeat.nn.harmonic import custom_op, functional
from hlfeat.nn.harmonic.table import Table
from tests.nn.unet import UNet

SHAPES = [(2, 1, 48, 16), (3, 1, 48, 16), (2, 1, 48, 20), (5, 1, 48, 28), (4, 1, 48, 16)]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()


def harmonic_unet() -> UNet:
    torch.manual_seed(0)
    net = UNet()
    hlfeat.harmonise(net, hlfeat.LogAxis(12, 2.0))
    return net


def small(**options) -> hlfeat.LogHarmonicConv2d:
    torch.manual_seed(0)
    return hlfeat.LogHarmonicConv2d(2, 4, (3, 3), padding=1, bins_per_octave=6, **options).double()


def with_gradients(module: nn.Module, call, x: torch.Tensor) -> list[torch.Tensor]:
    """The output of `call`, and the gradients of its input and of the module's parameters."""
    x = x.clone().requires_grad_()
    y = call(x)
    return [y, *torch.autograd.grad(y.double().square().sum(), [x, *module.parameters()])]


def graphs_of(net: nn.Module) -> int:
    """How many graphs torch makes for SHAPES, in training."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(net, backend="aot_eager")
    for shape in SHAPES:
        compiled(torch.randn(shape)).sum().backward()
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


def test_a_network_is_one_graph_for_each_that_ordinary_convolutions_need():
    net = harmonic_unet()
    net(torch.randn(1, 1, 48, 16))  # which finds the axes
    assert graphs_of(net) == graphs_of(UNet())


def test_a_network_computes_what_it_does_in_eager_mode():
    """The first pass, which finds the axes, is a compiled one here."""
    eager, net = harmonic_unet(), harmonic_unet()
    compiled = torch.compile(net, backend="aot_eager")
    for shape in SHAPES[:3]:
        x = torch.randn(shape)
        torch.testing.assert_close(with_gradients(net, compiled, x), with_gradients(eager, eager, x))


def test_the_operation_stays_whole_forward_and_backward():
    """A graph of its pieces, one convolution a harmonic, took twice the time of eager mode."""
    calls: Counter[str] = Counter()

    def backend(graph, inputs):
        calls.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    net = harmonic_unet()
    compiled = torch.compile(net, backend=aot_autograd(fw_compiler=backend))
    compiled(torch.randn(2, 1, 48, 16, requires_grad=True)).sum().backward()
    assert calls["hlfeat.harmonic_conv2d.default"] == calls["hlfeat.harmonic_conv2d_backward.default"] == 6
    assert calls["aten.convolution.default"] == calls["aten.convolution_backward.default"] == 1  # the 1 x 1 convolution
    assert not {"aten.index_select.default", "aten.index_add.default"} & set(calls)


def test_inductor_compiles_what_is_around():
    torch.manual_seed(0)
    net, x = nn.Sequential(hlfeat.HarmonicConv2d(1, 4, 3, padding=1), nn.ReLU()), torch.randn(2, 1, 24, 16)
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(with_gradients(net, compiled, x), with_gradients(net, net, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradient", ["all", "input", "parameters", "none"])
@pytest.mark.parametrize(
    "options", [{}, {"stride": (2, 3), "dilation": (1, 2), "groups": 2, "anchor": 2, "bias": False}]
)
def test_the_operation_is_what_torch_expects_of_one(gradient, options):
    conv = small(**options).requires_grad_(gradient in ("all", "parameters"))
    x = torch.randn(2, 2, 12, 9).double().requires_grad_(gradient in ("all", "input"))
    table = conv._table
    time = [conv.stride[1], conv.padding[1], conv.dilation[1], conv.groups]
    axis = table.numbers, table.kind, table.anchor, table.stride
    torch.library.opcheck(custom_op._conv, (x, conv.weight, conv.bias, *axis, time, None))
    assert torch.equal(custom_op._conv(x, conv.weight, conv.bias, *axis, time, None), conv(x))


# the third harmonic of the last row is 300.01, which is 300 within the resolution
@pytest.mark.parametrize(
    "axis", [hlfeat.LinearAxis(2.5), hlfeat.LogAxis(7.3, 2.0), hlfeat.CentreAxis.of([300, 100, 200.0067], 1e-5)]
)
def test_a_table_is_its_axis(axis):
    table, rows = Table.of(axis, 2, 2), 3
    plan = table.plan(rows, 4)
    assert torch.equal(plan.positions, axis.positions(rows, 4, 2)[:, ::2])
    assert plan.order == axis.order
    assert table.rows_out(rows) == plan.rows_out


def test_derivatives_of_derivatives():
    """Of those that torch compiles, only graphs that are not differentiated ahead have them."""
    conv = small()
    x = torch.randn(2, 2, 9, 5).double().requires_grad_()
    assert torch.autograd.gradgradcheck(torch.compile(conv, backend="eager", fullgraph=True), (x,), fast_mode=True)
    (gx,) = torch.autograd.grad(torch.compile(conv, backend="eager")(x).square().sum(), x, create_graph=True)
    (gw,) = torch.autograd.grad(gx.square().sum(), conv.weight)
    (want,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(gw, torch.autograd.grad(want.square().sum(), conv.weight)[0])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_func_within_and_around(backend):
    conv, (x, v) = small(), torch.randn(2, 2, 2, 9, 5).double()
    both = torch.stack([x, v])
    for call, given in (
        (torch.func.vmap(conv), both),
        (torch.func.grad(lambda x: conv(x).square().sum()), x),
        (lambda x: torch.func.jvp(conv, (x,), (v,))[1], x),
    ):
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(call, backend=backend)(given), call(given))
    compiled = torch.compile(conv, backend=backend)
    compiled(x)
    torch.testing.assert_close(torch.func.vmap(compiled)(both), torch.func.vmap(conv)(both))


def test_autocast_is_that_of_eager_mode():
    conv, x = small().float(), torch.randn(2, 2, 9, 5)
    compiled = torch.compile(conv, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        results = [with_gradients(conv, call, x) for call in (compiled, conv)]
    assert results[0][0].dtype == torch.bfloat16
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("instructions", [True, False])
def test_autocast_on_a_cpu_with_or_without_half_precision(instructions, backend, monkeypatch):
    """A compiled program computes in float32 where eager mode does; the result has autocast's type."""
    monkeypatch.setattr(functional, "multiplies_in", lambda dtype, device: instructions)
    torch.manual_seed(0)
    conv, x = hlfeat.HarmonicConv2d(2, 3, (3, 3), padding=(0, 1)), torch.randn(1, 2, 8, 20)
    compiled = torch.compile(conv, backend=backend, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = compiled(x), conv(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)
    assert torch.equal(*(torch.autograd.grad(y.float().sum(), conv.weight)[0] for y in (got, want)))


def test_an_axis_that_moves_is_no_reason_to_compile_again():
    freqs, x = [100.0, 210.0, 305.0, 420.0, 640.0], torch.randn(2, 2, 5, 6)
    conv = hlfeat.HarmonicConv2d(2, 3, (3, 3), padding=1, centre_freqs=freqs)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    for step in range(4):
        conv.set_axis(hlfeat.CentreAxis.of([f + 60 * step * (i % 2) for i, f in enumerate(freqs)]))  # they cross
        assert torch.equal(compiled(x), conv(x))
    assert counters["stats"]["unique_graphs"] == 1


def test_filters_that_are_trained_are_no_reason_to_compile_again():
    torch.manual_seed(0)
    frontend = {"n_filters": 8, "num_groups": 2}
    layer = {"layer": "harmonic", "out_channels": 2, "kernel": [3, 3]}
    eager = hlfeat.build({"frontend": frontend, "stack": [layer]}).train()
    net = copy.deepcopy(eager)
    compiled = torch.compile(net, backend="aot_eager")
    optimizers = [torch.optim.SGD(m.parameters(), 1e-4) for m in (eager, net)]
    first, graphs = net.stack.layers[0].conv.axis, []
    for _ in range(4):
        x = torch.randn(2, 1600)
        losses = [call(x).square().mean() for call in (eager, compiled)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(set(graphs)) == 1
    assert net.stack.layers[0].conv.axis != first


@pytest.mark.parametrize("made", ["numpy", "tensor", "in the program"])
def test_the_function_in_a_program(made):
    x, weight, bias = torch.randn(2, 2, 6, 5), torch.randn(3, 2, 2, 3), torch.randn(3)
    table = torch.arange(6.0).double() * torch.tensor([[1.0], [1.5]]).double()

    def call(x):
        positions = {"numpy": table.numpy(), "tensor": table}.get(made)
        if positions is None:
            positions = torch.arange(6.0) * torch.tensor([[1.0], [1.5]])
        return hlfeat.harmonic_conv2d(x, weight, bias, positions, padding=1)

    assert torch.equal(torch.compile(call, backend="aot_eager", fullgraph=True)(x), call(x))
    with pytest.raises(Exception, match=r"expected positions \[Kf, G\], got \[6\]"):
        torch.compile(lambda x: hlfeat.harmonic_conv2d(x, weight, bias, table[0]), backend="aot_eager")(x)


def test_the_kernels_in_a_program(kernels, monkeypatch):
    """`fused` is asked for as in eager mode, forward and backward."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    calls = []
    original = functional.backend_for
    monkeypatch.setattr(functional, "backend_for", lambda *a: calls.append(a[-1]) or original(*a))
    conv, x = small().float().to(device), torch.randn(2, 2, 6, 5, device=device)
    positions = conv.positions(6)

    def call(x):
        return hlfeat.harmonic_conv2d(x, conv.weight, conv.bias, positions, padding=1, fused=True)

    results = [with_gradients(conv, f, x) for f in (torch.compile(call, backend="aot_eager"), call)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert calls == [True] * 3  # once in eager mode, whose backward pass knows
