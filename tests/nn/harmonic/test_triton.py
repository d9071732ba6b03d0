"""The Triton kernels against the same operation in float64: on a GPU, or else in Triton's interpreter.

What the interpreter does not show, the machine code does (tests/nn/harmonic/test_machine_code.py).
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hlfeat.nn.axes import Axis, CentreAxis, LinearAxis, LogAxis
from hlfeat.nn.frontends.scales import spaced_frequencies
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from hlfeat.nn.harmonic.plan import plan_for

triton = pytest.importorskip("triton")

from hlfeat.nn.harmonic import blocks, functional, triton_backend  # noqa: E402
from hlfeat.nn.harmonic.blocks import Blocks  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.usefixtures("kernels")


def axis_of(name: str, rows: int) -> Axis:
    centres = CentreAxis.of(spaced_frequencies(max(rows, 2), 60.0, 7800.0).tolist()[:rows])
    return {"linear": LinearAxis(), "log": LogAxis(7.3, 2.0), "centre": centres}[name]


def compare(x, weight, bias, positions, tolerance=1e-5, layout=torch.contiguous_format, **time):
    """Result and gradients of the kernels, which must be those of torch operations in float64."""
    exact = [None if v is None else v.detach().double().requires_grad_() for v in (x, weight, bias)]
    want = harmonic_conv2d(*exact, positions, **time)
    cotangent = torch.randn_like(want).to(x).contiguous(memory_format=layout)
    given_ = [v.detach().to(DEVICE).requires_grad_() if v is not None else None for v in (x, weight, bias)]
    got = harmonic_conv2d(*given_, positions, **time, fused=True)
    assert got.shape == want.shape
    assert got.dtype == x.dtype
    assert got.is_contiguous()
    torch.testing.assert_close(got.cpu().double(), want, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(got, [v for v in given_ if v is not None], cotangent.to(DEVICE))
    wanted = torch.autograd.grad(want, [v for v in exact if v is not None], cotangent.double())
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == x.dtype
        torch.testing.assert_close(a.cpu().double(), b, rtol=tolerance, atol=tolerance)


@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])  # the interpreter is too slow to look for small cases
@given(
    axis=st.sampled_from(["linear", "log", "centre"]),
    batch=st.integers(1, 2),
    rows=st.integers(1, 3),
    frames=st.integers(1, 20),
    channels=st.tuples(st.sampled_from([1, 3, 8, 17]), st.sampled_from([1, 3, 9])),
    groups=st.integers(1, 2),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    anchor=st.integers(1, 4),
    stride=st.tuples(st.integers(1, 2), st.sampled_from([1, 1, 1, 2, 3])),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 4),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_float64(
    axis, batch, rows, frames, channels, groups, kernel, anchor, stride, dilation, padding, bias, seed
):
    torch.manual_seed(seed)
    frames = max(frames, dilation * (kernel[1] - 1) + 1 - 2 * padding)
    x = torch.randn(batch, channels[0] * groups, rows, frames)
    weight = torch.randn(channels[1] * groups, channels[0], *kernel)
    positions = axis_of(axis, rows).positions(rows, kernel[0], anchor)[:, :: stride[0]]
    time = {"stride": stride[1], "padding": padding, "dilation": dilation, "groups": groups}
    compare(x, weight, torch.randn(len(weight)) if bias else None, positions, **time)


LITTLE = Blocks(32, 16, 16)


@pytest.mark.parametrize(
    ("channels", "time", "early"),
    [
        (11, {"padding": 1}, True),
        (11, {"stride": 2}, True),
        (4, {"padding": 1}, True),
        (11, {"padding": 3, "dilation": 2}, False),
    ],
)
def test_more_than_one_block_of_everything(channels, time, early, monkeypatch):
    """Frames, products and channels that no block holds; parts of the weight's gradient that share no term evenly."""
    monkeypatch.setattr(blocks, "default", lambda kernel, problem: LITTLE)
    monkeypatch.setattr(blocks.Problem, "early", lambda problem: early)
    monkeypatch.setattr(triton_backend, "PROGRAMS", 40)
    x, weight = torch.randn(2, channels, 3, 37), torch.randn(19, channels, 2, 3)
    compare(x, weight, torch.randn(19), LinearAxis().positions(3, 2, 2), **time)


def test_half_precision():
    x, weight = torch.randn(2, 4, 5, 12).half(), torch.randn(3, 4, 3, 3).half()
    compare(x, weight, torch.randn(3).half(), LogAxis(7.3, 2.0).positions(5, 3, 2), 2e-2, padding=1)
    with torch.autocast(DEVICE, torch.float16):
        got = harmonic_conv2d(x.float().to(DEVICE), weight.float().to(DEVICE), None, np.zeros((3, 5)), fused=True)
    assert got.dtype == torch.float16


def test_unusual_inputs():
    positions, weight = LinearAxis().positions(4, 3, 1), torch.randn(2, 3, 3, 1)
    last = torch.channels_last
    compare(torch.randn(2, 3, 4, 5).contiguous(memory_format=last), weight, None, positions, layout=last)
    compare(torch.randn(5, 4, 2, 3).permute(2, 3, 1, 0), weight, None, positions)
    compare(torch.randn(0, 3, 4, 5), weight, torch.randn(2), positions)
    compare(torch.randn(1, 3, 4, 5), weight, torch.randn(2), np.full((3, 4), 99.0))  # all outside


def rounded(x):
    """To the 11 bits of mantissa, the first of them implied, that TF32 has."""
    mantissa, exponent = np.frexp(x.detach().double().numpy())
    return torch.from_numpy(np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent))


def test_tf32_is_rounded_not_cut_off(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    x, weight, cotangent = torch.randn(1, 1, 3, 16), torch.randn(1, 1, 1, 1), torch.randn(1, 1, 3, 16)
    x_, weight_ = (v.detach().clone().to(DEVICE).requires_grad_() for v in (x, weight))
    got = harmonic_conv2d(x_, weight_, None, LinearAxis().positions(3, 1, 1), fused=True)
    gx, gw = torch.autograd.grad(got, (x_, weight_), cotangent.to(DEVICE))
    torch.testing.assert_close(got.cpu().double(), rounded(x) * rounded(weight), rtol=1e-6, atol=0)
    torch.testing.assert_close(gx.cpu().double(), rounded(cotangent) * rounded(weight), rtol=1e-6, atol=0)
    torch.testing.assert_close(gw.cpu().double().sum(), (rounded(cotangent) * rounded(x)).sum(), rtol=1e-5, atol=1e-5)
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -1e-45]).view(1, 1, 5, 1)
    odd[0, 0, 0] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # the NaN that GPUs make
    got = harmonic_conv2d(
        odd.to(DEVICE), torch.ones(1, 1, 1, 1, device=DEVICE), None, LinearAxis().positions(5, 1, 1), fused=True
    )
    torch.testing.assert_close(
        got.cpu(), torch.tensor([torch.nan, torch.inf, -torch.inf, 0, 0]).view(1, 1, 5, 1), equal_nan=True
    )


@pytest.mark.filterwarnings("ignore:invalid value")  # of columns that are not stored
def test_rows_of_weight_zero_are_not_read():
    x, weight = torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 2, 1)
    x[:, :, 1] = torch.inf
    got = harmonic_conv2d(x.to(DEVICE), weight.to(DEVICE), None, LinearAxis().positions(4, 2, 1), fused=True)
    assert got[0, 0, :, 0].tolist() == [0, torch.inf, 0, 0]  # rows 0, 1 and 2, 2 (and 4), 3 (and 6)
    x, weight = torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 2, 1)
    x[:, :, 3] = torch.inf  # a whole position is read once, also where other entries have two rows
    got = harmonic_conv2d(x.to(DEVICE), weight.to(DEVICE), None, LinearAxis().positions(4, 2, 2), fused=True)
    assert got[0, 0, :, 0].tolist() == [0, 0, 0, torch.inf]


def test_the_gradient_of_the_weight_does_not_read_outside_the_axis():
    x = torch.ones(1, 1, 2, 3, device=DEVICE)
    x[:, :, 0] = torch.inf  # where the row of a position that lies outside would be looked for
    weight = torch.ones(1, 1, 2, 1, device=DEVICE, requires_grad=True)
    positions = np.array([[1.0, 1.0], [99.0, 1.0]])  # only the second output row has both harmonics
    y = harmonic_conv2d(x, weight, None, positions, fused=True)
    (gw,) = torch.autograd.grad(y.sum(), weight)
    assert gw.flatten().tolist() == [6, 3]


def test_second_derivatives_are_those_of_torch_operations():
    torch.manual_seed(0)
    x, positions = torch.randn(1, 2, 3, 4, device=DEVICE), LinearAxis().positions(3, 2, 1)

    def second(fused):
        weight = torch.ones(1, 2, 2, 2, device=DEVICE, requires_grad=True)
        y = harmonic_conv2d(x.requires_grad_(), weight, None, positions, fused=fused)
        (gx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(gx.square().sum(), weight)[0]

    fused, plain = second(True), second(False)
    assert (fused - plain).norm() <= 1e-5 * plain.norm()  # float32; single values cancel


@given(
    rows=st.integers(1, 9),
    kernel=st.integers(1, 5),
    anchor=st.integers(1, 5),
    axis=st.sampled_from(["linear", "log", "centre"]),
)
def test_lists_say_what_interpolation_reads(rows, kernel, anchor, axis):
    positions = axis_of(axis, rows).positions(rows, kernel, anchor)
    plan = plan_for(positions, rows)
    weights = torch.zeros(kernel, rows, rows + 1)  # of each row of the input, for each harmonic and output row
    for (k, f), p in np.ndenumerate(positions.numpy()):
        low = round(p) if abs(p - round(p)) < 1e-6 else int(np.floor(p))
        if low >= 0 and p <= rows - 1 + 1e-6:
            weights[k, f, low] += 1 - max(0.0, p - low)
            weights[k, f, low + 1] += max(0.0, p - low)
    weights = weights[..., :-1]
    lists = triton_backend.lists(plan, torch.device("cpu"))
    for reads, order in ((lists.forward, (1, 0, 2)), (lists.back, (2, 0, 1))):
        want = weights.permute(order)
        got = torch.zeros_like(want)
        for to in range(len(want)):
            for e in range(int(reads.start[to]), int(reads.start[to + 1])):
                for side in range(2):
                    got[to, reads.place[e], reads.row[e, side]] += reads.row_weight[e, side]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        assert len(reads.place) == reads.start[-1] <= (want != 0).sum()
        lone = reads.row_weight[:, 1] == 0
        assert torch.equal(reads.row[lone, 0], reads.row[lone, 1])  # which is how a kernel knows
    got = torch.zeros_like(weights)
    for k, f, side in np.ndindex(*lists.row.shape):
        got[k, f, lists.row[k, f, side]] += lists.row_weight[k, f, side]
    torch.testing.assert_close(got, weights, rtol=0, atol=1e-5)
    lone = lists.row_weight[..., 1] == 0
    assert torch.equal(lists.row[..., 0][lone], lists.row[..., 1][lone])
    for together in (1, 2, kernel):
        start, out_row, most = triton_backend.used(plan, together, torch.device("cpu"))
        for i in range(len(start) - 1):
            active = (weights[together * i : together * (i + 1)] != 0).any(0).any(1)
            assert torch.equal(out_row[start[i] : start[i + 1]].long(), active.nonzero().flatten())
        assert most == (start[1:] - start[:-1]).max()


def test_where_the_kernels_do_not_go(monkeypatch):
    positions, weight = np.zeros((1, 2)), torch.randn(1, 1, 1, 1)

    def call(x, weight=weight):
        return harmonic_conv2d(x.to(DEVICE), weight.to(DEVICE), None, positions, fused=True)

    with pytest.raises(ValueError, match=r"fused: expected float32, .* got torch\.float64 and torch\.float64"):
        call(torch.randn(1, 1, 2, 3).double(), weight.double())
    with pytest.raises(ValueError, match=r"float32, .* got torch\.float16 and torch\.float32"):
        call(torch.randn(1, 1, 2, 3).half())
    with pytest.raises(ValueError, match="less than 2\\*\\*31 values"):
        harmonic_conv2d(
            weight.new_zeros(1).to(DEVICE).expand(1, 1, 2, 2**30), weight.to(DEVICE), None, positions, fused=True
        )
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="fused: expected a CUDA device, got cpu"):
        harmonic_conv2d(torch.randn(1, 1, 2, 3), weight, None, positions, fused=True)
    monkeypatch.setitem(sys.modules, "hlfeat.nn.harmonic.triton_backend", None)
    monkeypatch.delattr("hlfeat.nn.harmonic.triton_backend")
    with pytest.raises(ValueError, match="fused: expected Triton, which is not installed"):
        call(torch.randn(1, 1, 2, 3))


@pytest.mark.parametrize(
    ("dtype", "tf32", "runs", "taken"),
    [
        (torch.float32, True, True, True),
        (torch.float32, False, True, False),
        (torch.float16, False, True, True),
        (torch.float64, True, True, False),
        (torch.float32, True, False, False),
    ],
)
def test_kernels_are_taken_where_they_pay(monkeypatch, dtype, tf32, runs, taken):
    calls = []
    original = triton_backend.convolve
    monkeypatch.setattr(functional, "kernels_run", lambda device: runs)
    monkeypatch.setattr(triton_backend, "convolve", lambda *given: (calls.append(1), original(*given))[1])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    x, weight = torch.randn(1, 2, 3, 9, dtype=dtype), torch.randn(2, 2, 2, 3, dtype=dtype)
    positions = LinearAxis().positions(3, 2, 1)
    got = harmonic_conv2d(x.to(DEVICE), weight.to(DEVICE), None, positions)
    assert bool(calls) == taken
    torch.testing.assert_close(
        got.cpu().double(), harmonic_conv2d(x.double(), weight.double(), None, positions), rtol=2e-2, atol=2e-2
    )
    harmonic_conv2d(x.to(DEVICE), weight.to(DEVICE), None, positions, fused=False)
    assert bool(calls) == taken
