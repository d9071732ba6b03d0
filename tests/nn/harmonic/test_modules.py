"""Harmonic convolution against a float64 loop and torchvision's deformable convolution, and as a musician hears it."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torchvision.ops import deform_conv2d

import hlfeat
from hlfeat.nn.axes import LinearAxis
from hlfeat.nn.frontends.scales import spaced_frequencies
from hlfeat.nn.harmonic import chunks, functional
from hlfeat.nn.harmonic.axis_conv import AxisHarmonicConv2d
from hlfeat.nn.harmonic.modules import MixedHarmonicConv2d
from hlfeat.nn.harmonic.plan import plan_for

AXES = ["linear", "log", "centre"]


def make(axis: str, rows: int, *args, **kwargs) -> AxisHarmonicConv2d:
    if axis == "log":
        return hlfeat.LogHarmonicConv2d(*args, out_log_scale=7.3, radix=2.0, **kwargs)
    freqs = spaced_frequencies(rows, 60.0, 7800.0) if axis == "centre" else None
    return hlfeat.HarmonicConv2d(*args, centre_freqs=freqs, **kwargs)


def position(axis: str, rows: int, f: int, k: int, n: int) -> float:
    """p_k(f) of the definition, one number at a time; -1 outside."""
    if axis == "linear":
        return f * k / n
    if axis == "log":
        return f + 7.3 * math.log2(k / n)
    c = spaced_frequencies(rows, 60.0, 7800.0)
    wanted = c[f] * k / n
    if wanted < c[0] * (1 - 1e-12) or wanted > c[-1] * (1 + 1e-12):
        return -1.0
    above = next(i for i in range(rows) if i == rows - 1 or c[i + 1] >= wanted)
    if above == rows - 1:
        return float(above)
    return above + (wanted - c[above]) / (c[above + 1] - c[above])


def by_hand(conv: AxisHarmonicConv2d, axis: str, x: torch.Tensor) -> torch.Tensor:
    """The definition: for each harmonic, read its rows one by one, then multiply and add. float64."""
    weight, rows = conv.weight.detach().double(), x.shape[2]
    x = F.pad(x.double(), (conv.padding[1], conv.padding[1]))
    kept = range(0, rows, conv.stride[0])
    y = 0.0
    for k in range(weight.shape[2]):
        lowered = torch.zeros(x.shape[0], x.shape[1], len(kept), x.shape[3], dtype=torch.float64)
        for g, f in enumerate(kept):
            p = position(axis, rows, f, k + 1, conv.anchor)
            if 0 <= p <= rows - 1:
                low = min(int(p), rows - 1)
                above = min(low + 1, rows - 1)
                lowered[:, :, g] = x[:, :, low] * (1 - (p - low)) + x[:, :, above] * (p - low)
        y = y + F.conv2d(
            lowered,
            weight[:, :, k : k + 1],
            stride=(1, conv.stride[1]),
            dilation=(1, conv.dilation[1]),
            groups=conv.groups,
        )
    return y if conv.bias is None else y + conv.bias.detach().double()[:, None, None]


SETTINGS = {
    "axis": st.sampled_from(AXES),
    "rows": st.integers(1, 40),
    "frames": st.integers(1, 12),
    "channels": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "groups": st.integers(1, 2),
    "kernel": st.tuples(st.integers(1, 7), st.integers(1, 5)),
    "anchor": st.integers(1, 9),
    "stride": st.tuples(st.integers(1, 4), st.integers(1, 3)),
    "dilation": st.integers(1, 3),
    "bias": st.booleans(),
    "seed": st.integers(0, 2**31),
}


def random_case(axis, rows, frames, channels, groups, kernel, anchor, stride, dilation, bias, seed):
    torch.manual_seed(seed)
    conv = make(
        axis,
        rows,
        channels[0] * groups,
        channels[1] * groups,
        kernel,
        stride,
        (0, dilation * (kernel[1] // 2)),
        (1, dilation),
        groups,
        bias,
        anchor=anchor,
    )
    if frames + 2 * conv.padding[1] <= dilation * (kernel[1] - 1):
        frames += dilation * kernel[1]
    return conv, torch.randn(2, channels[0] * groups, rows, frames)


CUTTING = {
    "as it is": {},
    "tiny chunks": {"CHUNK_BYTES": 64},
    "every cut": {"CPU_BLOCK_COST": 0},
    "both": {"CHUNK_BYTES": 64, "CPU_BLOCK_COST": 0},
    "as on a device": {"sizes_decide": lambda device: False},
    "as on a device, every cut, tiny tables": {
        "sizes_decide": lambda device: False,
        "DEVICE_BLOCK_ROWS": 0,
        "DEVICE_TABLE_ENTRIES": 1,
    },
}


@pytest.fixture(params=CUTTING)
def cutting(request, monkeypatch):
    """How the work is cut into chunks must not show: whatever an estimate of work says, the result is the same."""
    for name, value in CUTTING[request.param].items():
        monkeypatch.setattr(chunks, name, value)


@pytest.mark.usefixtures("cutting")
@given(**SETTINGS)
def test_equals_the_definition(axis, **setting):
    conv, x = random_case(axis, **setting)
    want = by_hand(conv, axis, x)
    got64 = conv.double()(x.double()).detach()
    assert got64.shape == want.shape
    torch.testing.assert_close(got64, want, rtol=1e-9, atol=1e-9)
    # float32: sums of at most 7 * 5 * 3 products of order one
    torch.testing.assert_close(conv.float()(x).detach().double(), want, rtol=1e-4, atol=2e-5)


@pytest.mark.usefixtures("cutting")
@given(**SETTINGS)
def test_equals_deformable_convolution(axis, **setting):
    """torchvision interpolates beyond the last row with zeros, so rows that read from (F - 1, F) are left out."""
    conv, x = random_case(axis, **setting)
    conv, x = conv.double(), x.double()
    rows, (kf, kt) = x.shape[2], conv.kernel_size
    p = np.array([[position(axis, rows, f, k, conv.anchor) for f in range(rows)] for k in range(1, kf + 1)])
    p[(p < 0) | (p > rows - 1)] = -1e4  # far outside
    got = conv(x)
    t_out = got.shape[3]
    # tap (k, u) of output row f reads row f + k + offset: the kernel is laid on row 0 of every output row
    offset = torch.zeros(2, kf, kt, 2, rows, t_out, dtype=torch.float64)
    offset[:, :, :, 0] = torch.from_numpy(p - np.arange(rows) - np.arange(kf)[:, None])[None, :, None, :, None]
    want = deform_conv2d(
        F.pad(x, (0, 0, 0, kf - 1)),
        offset.flatten(1, 3),
        conv.weight,
        conv.bias,
        stride=(1, conv.stride[1]),
        padding=(0, conv.padding[1]),
        dilation=(1, conv.dilation[1]),
    )[:, :, :: conv.stride[0]]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("cutting")
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("anchor", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_exact(axis, anchor, groups):
    torch.manual_seed(0)
    conv = make(axis, 7, 2, 2, (4, 2), (2, 1), (0, 2), (1, 2), groups, anchor=anchor).double()
    x = torch.randn(2, 2, 7, 3, dtype=torch.float64, requires_grad=True)
    parameters = (conv.weight.detach().requires_grad_(), conv.bias.detach().requires_grad_())

    def call(x, weight, bias):
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters))


def test_second_gradients_are_exact():
    conv = make("centre", 6, 2, 2, (3, 3), (2, 1), (0, 1), groups=2, anchor=2).double()
    x = torch.randn(1, 2, 6, 4, dtype=torch.float64, requires_grad=True)
    weight = conv.weight.detach().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, w: torch.func.functional_call(conv, {"weight": w}, (x,)), (x, weight))


@pytest.mark.usefixtures("cutting")
def test_gradients_are_the_same_to_the_bit_every_time():
    conv = make("centre", 80, 8, 8, (7, 5), 1, (0, 2), anchor=3)
    x = torch.randn(3, 8, 80, 50, requires_grad=True)
    seen = []
    for _ in range(5):
        conv.zero_grad()
        x.grad = None
        conv(x).square().sum().backward()
        seen.append((x.grad.clone(), conv.weight.grad.clone(), conv.bias.grad.clone()))
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("frozen", ["input", "weight", "both"])
def test_what_is_frozen_gets_no_gradient(frozen):
    conv = make("linear", 12, 2, 3, (3, 3))
    conv.weight.requires_grad_(frozen == "input")
    x = torch.randn(1, 2, 12, 9, requires_grad=frozen == "weight")
    conv(x).sum().backward()
    assert (x.grad is None) == (frozen != "weight")
    assert (conv.weight.grad is None) == (frozen != "input")
    assert conv.bias.grad is not None


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
def test_the_same_without_gradients(how, monkeypatch):
    conv, x = make("centre", 12, 2, 3, (3, 3), 1, (0, 1)), torch.randn(2, 2, 12, 9)
    want = conv(x)
    assert want.requires_grad
    monkeypatch.setattr(functional._HarmonicConv, "apply", None)  # autograd's part is left out
    with how():
        assert torch.equal(conv(x), want)
    conv.requires_grad_(False)
    assert torch.equal(conv(x), want)


@pytest.mark.parametrize("axis", AXES)
def test_compiles_and_exports_in_one_piece(axis):
    torch.manual_seed(0)
    conv = make(axis, 20, 2, 3, (4, 3), 1, (0, 1), anchor=2)
    x = torch.randn(2, 2, 20, 30, requires_grad=True)
    want = conv(x)
    (want_grad,) = torch.autograd.grad(want.square().sum(), x)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), want, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(compiled(x).square().sum(), x)
    torch.testing.assert_close(grad, want_grad, rtol=1e-4, atol=1e-4)
    frames = torch.export.Dim("frames", min=4, max=1000)
    exported = torch.export.export(conv, (x.detach(),), dynamic_shapes=({3: frames},)).module()
    longer = torch.randn(2, 2, 20, 77)
    torch.testing.assert_close(exported(longer), conv(longer), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", AXES)
def test_unusual_inputs(axis):
    torch.manual_seed(0)
    conv = make(axis, 10, 2, 3, (3, 3), 1, (0, 1), anchor=2)
    x = torch.randn(2, 2, 10, 8)
    want = conv(x)
    torch.testing.assert_close(conv(x.to(memory_format=torch.channels_last)), want)
    torch.testing.assert_close(conv(x.transpose(2, 3).contiguous().transpose(2, 3)), want)
    assert conv(x[:0]).shape == (0, 3, 10, 8)
    assert conv(x[..., :1]).shape == (2, 3, 10, 1)
    assert make(axis, 1, 2, 3, (3, 3), 1, (0, 1))(x[:, :, :1]).shape == (2, 3, 1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = conv(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), want, rtol=0.05, atol=0.05)  # 8 bits of mantissa
    torch.testing.assert_close(conv.bfloat16()(x.bfloat16()).float(), want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("instructions", [True, False])
def test_under_autocast_a_cpu_computes_in_the_half_precision_or_in_float32(monkeypatch, instructions):
    """bfloat16 that is converted back and forth takes longer than float32. The result has autocast's type."""
    monkeypatch.setattr(functional, "multiplies_in", lambda dtype, device: instructions)
    torch.manual_seed(0)
    conv, x = hlfeat.HarmonicConv2d(2, 3, (3, 3), padding=1), torch.randn(2, 2, 10, 8).bfloat16().requires_grad_()
    with torch.no_grad():
        exact = conv(x.float()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
        with torch.no_grad():
            torch.testing.assert_close(conv(x), y, rtol=0, atol=0)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact) != instructions
    gradients = torch.autograd.grad(y.sum(), (x, conv.weight, conv.bias))
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    weight = torch.autograd.grad(conv(x.float()).sum(), conv.weight)[0]
    torch.testing.assert_close(gradients[1], weight, rtol=0.02, atol=0.2 if instructions else 1e-4)


def test_harmonics_that_all_lie_outside_leave_the_bias():
    conv = hlfeat.LogHarmonicConv2d(2, 3, (2, 3), padding=(0, 1), anchor=9)  # 1/9 and 2/9: thousands of rows below
    y = conv(torch.randn(1, 2, 20, 6))
    torch.testing.assert_close(y, conv.bias[None, :, None, None].expand_as(y))


def test_equally_spaced_centre_frequencies_are_the_linear_axis():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        linear = hlfeat.HarmonicConv2d(2, 3, (6, 3), anchor=2)
        centre = hlfeat.HarmonicConv2d(2, 3, (6, 3), anchor=2, centre_freqs=torch.arange(257, dtype=dtype) * 31.1)
        centre.load_state_dict(linear.state_dict())
        x = torch.randn(1, 2, 257, 7)
        torch.testing.assert_close(centre(x), linear(x), rtol=1e-4, atol=1e-4)


def test_is_a_drop_in_for_conv2d():
    plain, ours = torch.nn.Conv2d(4, 6, (5, 3), groups=2), hlfeat.HarmonicConv2d(4, 6, (5, 3), groups=2)
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    ours.load_state_dict(plain.state_dict())
    assert hlfeat.HarmonicConv2d(1, 1, 3, dtype=torch.float64).weight.dtype == torch.float64
    assert hlfeat.HarmonicConv2d(1, 1, 3, bias=False).bias is None


@pytest.mark.parametrize("axis", AXES)
def test_copies_and_pickles_after_use(axis):
    conv, x = make(axis, 12, 2, 3, (3, 3)), torch.randn(1, 2, 12, 9)
    want = conv(x)
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        torch.testing.assert_close(other(x), want, rtol=0, atol=0)


def test_mixed_anchors_are_the_single_ones_mixed():
    torch.manual_seed(0)
    mixed = MixedHarmonicConv2d(hlfeat.HarmonicConv2d(1, 1, 1).axis, 2, 3, (3, 3), padding=(0, 1), anchors=[1, 2])
    x = torch.randn(1, 2, 9, 5)
    want = 0.0
    for i, branch in enumerate(mixed.branches):
        want = want + F.conv2d(branch(x), mixed.mix.weight[:, 3 * i : 3 * i + 3])
    torch.testing.assert_close(mixed(x), want + mixed.mix.bias[:, None, None])


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("fundamental", [110.0, 220.0, 330.0])
def test_a_kernel_of_ones_finds_the_fundamental_of_a_tone(axis, fundamental):
    """A note has harmonics at 1 to 8 times its pitch. A kernel of ones adds up, at each row, what lies at the first six
    multiples of its frequency: that is most where the note is."""
    rate, n_fft = 16000, 1024
    t = np.arange(rate) / rate
    note = torch.from_numpy(sum(np.sin(2 * np.pi * fundamental * k * t) / k for k in range(1, 9))).float()
    freqs = np.arange(n_fft // 2 + 1) * rate / n_fft
    power = torch.stft(note, n_fft, window=torch.hann_window(n_fft), return_complex=True, center=False).abs().mean(1)
    if axis == "linear":
        conv, centres, spectrum = hlfeat.HarmonicConv2d(1, 1, (6, 1), bias=False), freqs, power.numpy()
    else:
        octave = 48
        centres = 55.0 * 2 ** (np.arange(7 * octave) / octave)
        if axis == "centre":
            centres = spaced_frequencies(400, 40.0, 6000.0)
        spectrum = np.interp(centres, freqs, power.numpy())
        conv = (
            hlfeat.LogHarmonicConv2d(1, 1, (6, 1), bias=False, out_log_scale=octave, radix=2)
            if axis == "log"
            else hlfeat.HarmonicConv2d(1, 1, (6, 1), bias=False, centre_freqs=centres)
        )
    torch.nn.init.ones_(conv.weight)
    salience = conv(torch.from_numpy(spectrum).float()[None, None, :, None])[0, 0, :, 0].detach()
    found = centres[int(salience.argmax())]
    assert abs(found - fundamental) < rate / n_fft  # a bin


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"padding": (1, 2)}, r"write padding=2 or \(0, 2\), got \(1, 2\)"),
        ({"padding": -1}, "padding from 0"),
        ({"padding": "full"}, r'an int, a pair \(0, n\), "same" or "valid", got \'full\''),
        ({"padding": "same", "stride": 2}, 'a stride of 1 in time with padding "same", got 2'),
        ({"dilation": (2, 3)}, r"write dilation=3 or \(1, 3\), got \(2, 3\)"),
        ({"padding_mode": "mirror"}, "padding_mode zeros, reflect, replicate, circular, got 'mirror'"),
        ({"centre_freqs": [1.0, 2.0], "axis": LinearAxis()}, "centre_freqs or axis, got both"),
        ({"anchor": 0}, "anchor of 1 or above"),
        ({"anchor": 1.5}, "anchor of 1 or above"),
        ({"kernel_size": 0}, "at least 1"),
        ({"stride": 0}, "at least 1"),
        ({"groups": 3}, "multiples of groups"),
        ({"centre_freqs": [[100.0]]}, r"centre frequencies \[F\]"),
        ({"centre_freqs": [100.0, float("nan")]}, "finite"),
    ],
)
def test_impossible_arguments(arguments, words):
    arguments = {"kernel_size": 3, **arguments}
    with pytest.raises(ValueError, match=words):
        hlfeat.HarmonicConv2d(2, 4, **arguments)


def test_the_function_takes_positions_alone():
    """Rows 2.5 and 0 of the input; the second harmonic of the second row lies outside."""
    x = torch.arange(4.0).view(1, 1, 4, 1)
    positions = torch.tensor([[2.5, 0.0], [1.0, 3.5]])
    y = hlfeat.harmonic_conv2d(x, torch.tensor([1.0, 10.0]).view(1, 1, 2, 1), torch.tensor([100.0]), positions)
    assert y.flatten().tolist() == [112.5, 100.0]
    with pytest.raises(ValueError, match="a kernel of 2 harmonics"):
        hlfeat.harmonic_conv2d(x, torch.ones(1, 1, 3, 1), None, positions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.ones(2, 3, 2, 1)}, r"\[1, 2, 4, 3\] and \[2, 3, 2, 1\] with groups 1"),
        ({"groups": 2}, "with groups 2"),
        ({"groups": 0}, "with groups 0"),
        ({"weight": torch.ones(3, 1, 2, 1), "bias": None, "groups": 2}, r"and \[3, 1, 2, 1\] with groups 2"),
        ({"weight": torch.ones(2, 2, 2)}, r"a weight \[O, C / groups, Kf, Kt\]"),
        ({"weight": torch.ones(0, 2, 2, 1)}, r"and \[0, 2, 2, 1\]"),
        ({"bias": torch.ones(3)}, r"a bias \[2\], got \[3\]"),
        ({"weight": torch.ones(2, 2, 2, 4)}, "as many frames as the kernel spans, got 3"),
        ({"weight": torch.ones(2, 2, 2, 1, device="meta")}, "the weight and the bias on cpu"),
        ({"stride": 0}, "stride and dilation from 1"),
        ({"padding": -1}, r"padding from 0, got \(1, -1, 1\)"),
    ],
)
def test_the_function_refuses_what_does_not_go_together(change, words):
    given_ = {"weight": torch.ones(2, 2, 2, 1), "bias": torch.ones(2), **change}
    with pytest.raises(ValueError, match=words):
        hlfeat.harmonic_conv2d(torch.ones(1, 2, 4, 3), positions=LinearAxis().positions(4, 2, 1), **given_)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("axis", AXES)
def test_is_traced(axis):
    conv, x = make(axis, 9, 2, 3, (3, 2), padding=(0, 1)), torch.randn(2, 2, 9, 7)
    with torch.no_grad():
        traced = torch.jit.trace(conv, x)
        other = torch.randn(4, 2, 9, 7)
        torch.testing.assert_close(traced(other), conv(other))


@pytest.mark.parametrize("axis", AXES)
def test_derivatives_and_batches_of_torch_func(axis):
    conv, x, v = make(axis, 9, 2, 3, (3, 2)).double(), *torch.randn(2, 2, 2, 9, 7).double()
    y, tangent = torch.func.jvp(conv, (x,), (v,))  # as the very first call
    torch.testing.assert_close(y, conv(x))
    torch.testing.assert_close(tangent, conv(v) - conv(torch.zeros_like(v)))  # it is linear but for the bias
    with forward_ad.dual_level(), torch.no_grad():
        torch.testing.assert_close(forward_ad.unpack_dual(conv(forward_ad.make_dual(x, v))).tangent, tangent)
    gx = torch.func.grad(lambda x: conv(x).square().sum())(x)
    torch.testing.assert_close(gx, torch.autograd.grad(conv(x.requires_grad_()).square().sum(), x)[0])
    both = torch.stack([x.detach(), v])
    table = conv.positions(9).flip(1)  # that no plan has been made of
    call = lambda x: hlfeat.harmonic_conv2d(x, conv.weight, conv.bias, table)  # noqa: E731
    torch.testing.assert_close(torch.func.jvp(call, (x,), (v,))[0], call(x))
    torch.testing.assert_close(torch.func.vmap(conv)(both), torch.stack([conv(b) for b in both]))


def test_a_plan_made_for_inference_serves_training():
    conv, x = hlfeat.HarmonicConv2d(2, 3, 3), torch.randn(1, 2, 8, 5, requires_grad=True)
    with torch.inference_mode():
        conv(x)
    (gx,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    gx.square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_copies_do_not_hold_what_devices_hold():
    plan = plan_for(LinearAxis().positions(8, 3, 1), 8)
    plan.backend_data[torch.device("cuda:7")] = "somewhere else"
    for again in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert not again.backend_data
        assert torch.equal(again.lerp_rows, plan.lerp_rows)
    plan.backend_data.clear()


def test_sizes_of_numpy():
    conv = hlfeat.HarmonicConv2d(2, 3, np.int64(3), padding=(0, np.int64(1)), anchor=np.int64(2))
    assert (conv.kernel_size, conv.padding, conv.anchor) == ((3, 3), (0, 1), 2)
    assert all(type(n) is int for n in (*conv.kernel_size, *conv.padding, conv.anchor))


def test_impossible_inputs():
    with pytest.raises(ValueError, match=r"\[B, 2, F, T\]"):
        hlfeat.HarmonicConv2d(2, 3, 3)(torch.zeros(1, 3, 4, 5))
    with pytest.raises(ValueError, match="3 rows, one a centre frequency, got 4"):
        hlfeat.HarmonicConv2d(2, 3, 3, centre_freqs=[1.0, 2.0, 3.0])(torch.zeros(1, 2, 4, 5))
    with pytest.raises(ValueError, match="radix > 1"):
        hlfeat.LogHarmonicConv2d(2, 3, 3, radix=1.0)
